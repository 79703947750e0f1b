/* LPIs and virtual LPIs as sources: each of the host's MSI-X vectors is an event of its device, others are events of devices
 * that exist in the ITS alone and are raised by its INT command. */
#include "irq_sources.h"
#include "vpe.h"

enum { CMD_MOVE = 96, CMD_MOVE_COLLECTION, CMD_ITS, CMD_REDISTRIBUTOR, CMD_TABLES };
enum { REDISTRIBUTOR_ON, REDISTRIBUTOR_OFF, REDISTRIBUTOR_FORGET };
enum { INTID_STEP = 11, VLPI_DOORBELL = LPI_FIRST + IRQ_SOURCES * INTID_STEP, DOORBELL_PRIORITY = 0x20 };
enum { SOFTWARE_DEVICES = 0xf0, MSIX_ENTRY_WORDS = 4 };

static uint32_t host_device;
static uint64_t mapped_devices[4];      /* a bit per device id below 256 */

bool is_virtual(const struct irq_source *source)
{
	return source->kind == IRQ_VLPI_DOORBELL || source->kind == IRQ_ITS_VLPI;
}

static bool is_of_host(const struct irq_source *source)
{
	return source->kind == IRQ_DOORBELL || source->kind == IRQ_VLPI_DOORBELL;
}

static uint32_t device_of(const struct irq_source *source)
{
	return is_of_host(source) ? host_device : SOFTWARE_DEVICES + (source->line >> 8);
}

static uint32_t event_of(const struct irq_source *source)
{
	return source->line & 0xff;
}

static void enable_here(struct cpu *cpu)
{
	lpi_enable(cpu);
}

void lpi_open(uint64_t config)
{
	host_device = pci_requester(config);
	run_on_cpus(all_cpus(), enable_here);
	its_init();
}

static void map_device(uint32_t device)
{
	if (mapped_devices[device / 64] >> device % 64 & 1)
		return;
	mapped_devices[device / 64] |= 1ull << device % 64;
	its_map_device(device);
}

static void program_vector(unsigned vector)
{
	volatile uint32_t *entry = irq_device.table + vector * MSIX_ENTRY_WORDS;
	uint64_t address = its_translater();

	entry[0] = (uint32_t)address;
	entry[1] = (uint32_t)(address >> 32);
	entry[2] = vector;
	entry[3] = 0;
	barrier();
}

static void configure(const struct irq_source *source, bool enabled)
{
	if (is_virtual(source))
		vlpi_configure(source->arch_number, (uint8_t)source->priority, enabled);
	else
		lpi_configure(source->arch_number, (uint8_t)source->priority, enabled);
}

uint32_t lpi_program(struct irq_source *source)
{
	uint32_t device = device_of(source), event = event_of(source);

	if (!its_is_on())
		return IRQ_UNSUPPORTED;
	if (event >= EVENTS || device > 0xff || (is_of_host(source) && source->line >= irq_device.vectors))
		return IRQ_BAD;
	if (!is_virtual(source) && source->vcpu >= cpu_count)
		return IRQ_BAD;
	if (is_virtual(source) && !vpe_create(source->from))
		return IRQ_UNSUPPORTED;
	source->arch_number = LPI_FIRST + source->id * INTID_STEP;
	configure(source, !(source->flags & IRQ_MASKED));
	map_device(device);
	if (is_virtual(source)) {
		lpi_configure(VLPI_DOORBELL, DOORBELL_PRIORITY, true);
		its_map_virtual(device, event, source->arch_number, VLPI_DOORBELL);
	} else {
		its_map(device, event, source->arch_number, source->vcpu);
	}
	its_reread(device, event);
	its_sync(is_virtual(source) ? source->from : source->vcpu);
	if (is_of_host(source))
		program_vector(source->line);
	return IRQ_OK;
}

void lpi_trigger(const struct irq_source *source)
{
	its_raise(device_of(source), event_of(source));
}

void lpi_mask(const struct irq_source *source, bool masked)
{
	configure(source, !masked);
	its_reread(device_of(source), event_of(source));
	its_sync(is_virtual(source) ? source->from : source->vcpu);
}

/* QEMU and KVM keep a redistributor's table in memory up to date when its vCPU reads it this way. */
bool lpi_is_pending(const struct irq_source *source)
{
	uint32_t intid = source->arch_number;

	if (is_virtual(source))
		return vpe_is_pending(intid);
	return ((volatile uint8_t *)lpi_block(source->vcpu))[intid / 8] >> intid % 8 & 1;
}

bool lpi_is_doorbell(uint32_t intid)
{
	return intid == VLPI_DOORBELL;
}

static void disable_here(struct cpu *cpu)
{
	lpi_disable(cpu);
}

static void forget_here(struct cpu *cpu)
{
	lpi_disable(cpu);
	lpi_forget(cpu->index);
}


/* id, vcpu: MOVI to the collection of another vCPU */
static uint32_t move(const uint32_t *words)
{
	struct irq_source *source = &irq_sources[words[0] % IRQ_SOURCES];

	if (!source->kind || words[1] >= cpu_count)
		return IRQ_BAD;
	if (is_virtual(source)) {
		its_move_vpe(words[1]);
		vpe_create(words[1]);
		return IRQ_OK;
	}
	its_move(device_of(source), event_of(source), words[1]);
	its_sync(source->vcpu);
	source->vcpu = words[1];
	its_sync(source->vcpu);
	return IRQ_OK;
}

/* from, to: the collection of one vCPU goes to another with all that is pending */
static uint32_t move_collection(const uint32_t *words)
{
	uint32_t from = words[0], to = words[1];

	if (from >= cpu_count || to >= cpu_count)
		return IRQ_BAD;
	its_map_collection(from, to);
	its_move_all(from, to);
	its_sync(to);
	for (unsigned id = 0; id < IRQ_SOURCES; id++)
		if ((irq_sources[id].kind == IRQ_DOORBELL || irq_sources[id].kind == IRQ_ITS_LPI) && irq_sources[id].vcpu == from)
			irq_sources[id].vcpu = to;
	return IRQ_OK;
}

/* operation, mask of vCPUs */
static uint32_t redistributors(const uint32_t *words)
{
	static const job_fn jobs[] = {
		[REDISTRIBUTOR_ON] = enable_here, [REDISTRIBUTOR_OFF] = disable_here, [REDISTRIBUTOR_FORGET] = forget_here,
	};

	if (words[0] > REDISTRIBUTOR_FORGET)
		return IRQ_BAD;
	run_on_cpus(words[1] & all_cpus(), jobs[words[0]]);
	return IRQ_OK;
}

static uint32_t tell_tables(struct reply *reply)
{
	reply_u32(reply, machine.cpus);
	reply_u32(reply, vpe_is_possible());
	for (unsigned cpu = 0; cpu <= machine.cpus; cpu++)      /* the last one is the vPE's */
		reply_u64(reply, lpi_block(cpu));
	return IRQ_OK;
}

uint32_t lpi_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	uint32_t words[2] = { 0 };

	if (!machine.its_gpa)
		return IRQ_UNSUPPORTED;
	if (size > sizeof words)
		return IRQ_BAD;
	memcpy(words, payload, size);
	if (code == CMD_TABLES)
		return size ? IRQ_BAD : tell_tables(reply);
	if (code == CMD_ITS && size == 4) {
		its_switch(words[0]);
		return IRQ_OK;
	}
	if (size != sizeof words)
		return IRQ_BAD;
	switch (code) {
	case CMD_MOVE:
		return move(words);
	case CMD_MOVE_COLLECTION:
		return move_collection(words);
	case CMD_REDISTRIBUTOR:
		return redistributors(words);
	}
	return IRQ_UNSUPPORTED;
}
