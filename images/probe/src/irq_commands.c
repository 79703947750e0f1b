/* Commands about interrupts: codes 64 and up, see PROTOCOL.md. */
#include "irq.h"

enum {
	CMD_OPEN = CMD_IRQ, CMD_SOURCE, CMD_HOLD, CMD_RELEASE, CMD_TRIGGER, CMD_MASK, CMD_AWAIT, CMD_DRAIN
};
enum { UNKNOWN_COMMAND = 2, PATIENCE_S = 10 };

static uint32_t listed[IRQ_MAX_LISTED], is_pending[IRQ_MAX_LISTED];
static uint32_t listed_count;
static volatile uint32_t left_pending;
static uint64_t patience;

static uint32_t get_u32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

static uint64_t get_u64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

static uint32_t open(struct reply *reply)
{
	uint32_t features;

	if (irq_is_open)
		return IRQ_BAD;
	irq_forget_sources();
	features = arch_irq_open(&irq_device);
	if (!irq_device.registers)
		return IRQ_UNSUPPORTED;
	irq_page->cpus = cpu_count;
	irq_is_open = true;
	irq_ticks_per_s = arch_ticks_per_s();
	patience = irq_ticks_per_s * PATIENCE_S;
	reply_u64(reply, (uint64_t)irq_page);
	reply_u64(reply, sizeof *irq_page);
	reply_u32(reply, features);
	reply_u32(reply, cpu_count);
	reply_u32(reply, irq_device.vectors);
	reply_u32(reply, 0);
	reply_u64(reply, irq_ticks_per_s);
	return IRQ_OK;
}

/* A vPE's interrupts are logged as those of the last vCPU number, which no vCPU of this machine has. */
static bool is_vcpu(const struct irq_source *source)
{
	return source->vcpu < cpu_count || (source->kind >= IRQ_VLPI && source->vcpu == ARCH_MAX_CPUS - 1);
}

/* Who can ask about a source: its vCPU, or the one that a vPE is scheduled on. */
static bool asks(const struct irq_source *source, const struct cpu *cpu)
{
	return (source->vcpu < cpu_count ? source->vcpu : source->from) == cpu->index;
}

static uint32_t add(const uint8_t *payload, struct reply *reply)
{
	struct irq_source source = { 0 };
	uint32_t refused;

	memcpy(&source, payload, IRQ_SOURCE_BYTES);
	if (source.id >= IRQ_SOURCES || irq_sources[source.id].kind || !is_vcpu(&source) || source.from >= cpu_count)
		return IRQ_BAD;
	refused = arch_irq_source(&source);
	if (refused)
		return refused;
	irq_add_source(&source);
	reply_u32(reply, source.arch_number);
	return IRQ_OK;
}

static uint32_t add_all(const uint8_t *payload, uint32_t size, struct reply *reply)
{
	uint32_t count = get_u32(payload), refused = IRQ_OK;

	if (count > IRQ_MAX_LISTED || size != 4 + count * IRQ_SOURCE_BYTES)
		return IRQ_BAD;
	for (uint32_t i = 0; i < count && !refused; i++)
		refused = add(payload + 4 + i * IRQ_SOURCE_BYTES, reply);
	return refused;
}

/* A count, then ids. */
static bool read_list(const uint8_t *payload, uint32_t size)
{
	listed_count = size >= 4 ? get_u32(payload) : 0;
	if (size < 4 || listed_count > IRQ_MAX_LISTED || size != 4 + 4 * listed_count)
		return false;
	for (uint32_t i = 0; i < listed_count; i++) {
		listed[i] = get_u32(payload + 4 + 4 * i);
		if (listed[i] >= IRQ_SOURCES || !irq_sources[listed[i]].kind)
			return false;
	}
	return true;
}

static void trigger(struct cpu *cpu)
{
	for (uint32_t i = 0; i < listed_count; i++) {
		struct irq_source *source = &irq_sources[listed[i]];

		if (source->from != cpu->index)
			continue;
		source->raised++;
		arch_irq_trigger(source);
	}
}

static void await(struct cpu *cpu)
{
	uint64_t end = arch_ticks() + patience;

	for (uint32_t i = 0; i < listed_count; i++) {
		const struct irq_source *source = &irq_sources[listed[i]];

		if (!asks(source, cpu))
			continue;
		do
			is_pending[i] = arch_irq_is_pending(source);
		while (!is_pending[i] && arch_ticks() < end);
	}
}

static void drain(struct cpu *cpu)
{
	uint64_t end = arch_ticks() + patience;

	for (uint32_t id = 0; id < IRQ_SOURCES; id++) {
		const struct irq_source *source = &irq_sources[id];
		bool pending = source->kind && asks(source, cpu);

		while (pending && (pending = arch_irq_is_pending(source)) && arch_ticks() < end)
			arch_relax();
		if (pending)
			__atomic_add_fetch(&left_pending, 1, __ATOMIC_ACQ_REL);
	}
}

static uint32_t mask_all(bool masked)
{
	for (uint32_t i = 0; i < listed_count; i++)
		if (!arch_irq_mask(&irq_sources[listed[i]], masked))
			return IRQ_UNSUPPORTED;
	return IRQ_OK;
}

static uint32_t await_all(struct reply *reply)
{
	memset(is_pending, 0, sizeof is_pending);
	run_on_cpus(all_cpus(), await);
	for (uint32_t i = 0; i < listed_count; i++)
		reply_u32(reply, is_pending[i]);
	return IRQ_OK;
}

static uint32_t drain_all(struct reply *reply)
{
	left_pending = 0;
	run_on_cpus(all_cpus(), drain);
	reply_u32(reply, left_pending);
	return IRQ_OK;
}

static uint32_t of_list(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	bool masked = false;

	if (code == CMD_MASK) {
		if (size < 4)
			return IRQ_BAD;
		masked = get_u32(payload);
		payload += 4;
		size -= 4;
	}
	if (!read_list(payload, size))
		return IRQ_BAD;
	if (code == CMD_MASK)
		return mask_all(masked);
	if (code == CMD_AWAIT)
		return await_all(reply);
	run_on_cpus(all_cpus(), trigger);
	return IRQ_OK;
}

uint32_t irq_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	if (!irq_is_wanted)
		return IRQ_NOT_OPEN;
	if (code == CMD_OPEN)
		return size ? IRQ_BAD : open(reply);
	if (!irq_is_open)
		return IRQ_NOT_OPEN;
	if (code >= CMD_IRQ_ARCH)
		return arch_irq_command(code, payload, size, reply);
	switch (code) {
	case CMD_SOURCE:
		return size < 4 ? IRQ_BAD : add_all(payload, size, reply);
	case CMD_HOLD:
		if (size != 16)
			return IRQ_BAD;
		irq_hold_begin(get_u32(payload), get_u32(payload + 4), get_u64(payload + 8));
		return IRQ_OK;
	case CMD_RELEASE:
		if (size != 4)
			return IRQ_BAD;
		irq_hold_end(get_u32(payload));
		return IRQ_OK;
	case CMD_TRIGGER:
	case CMD_MASK:
	case CMD_AWAIT:
		return of_list(code, payload, size, reply);
	case CMD_DRAIN:
		return size ? IRQ_BAD : drain_all(reply);
	}
	return UNKNOWN_COMMAND;
}
