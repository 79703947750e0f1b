/* The commands of the protocol. Payloads are packed little endian, see PROTOCOL.md. */
#include "confidential.h"
#include "irq.h"

enum {
	CMD_DESCRIBE = 1, CMD_FILL, CMD_START, CMD_STOP, CMD_VERIFY, CMD_READ, CMD_WRITE, CMD_HEARTBEAT, CMD_CANARY_ARM,
	CMD_CANARY_CHECK, CMD_HALT, CMD_CRASH, CMD_CLOCK, CMD_BENCH, CMD_REBOOT, CMD_EARLY, CMD_SPARE, CMD_HYPERCALL,
	CMD_CVM = 32
};
enum { OK = 0, BUSY = 1, UNKNOWN_COMMAND = 2, BAD_PAYLOAD = 3, NOT_FILLED = 4, NOT_RAM = 5, WORKING = 6, NO_SUCH_WAY = 8 };
enum { HALT_STOP = 0, HALT_POWER_OFF = 1, HALT_RESET = 2, MAX_COPY = 1024 };

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

static void reply_ranges(struct reply *reply, const struct ranges *ranges)
{
	reply_u32(reply, ranges->count);
	for (unsigned i = 0; i < ranges->count; i++) {
		reply_u64(reply, ranges->at[i].start);
		reply_u64(reply, ranges->at[i].end);
	}
}

static uint32_t describe(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	reply_u32(reply, 1);
	reply_u32(reply, PROBE_VERSION);
	reply_u32(reply, arch_id);
	reply_u32(reply, cpu_count);
	reply_u64(reply, boot_id);
	reply_u64(reply, boot_count);
	reply_u64(reply, arch_ticks());
	reply_u64(reply, (uint64_t)heartbeat);
	reply_u64(reply, (uint64_t)ledger);
	reply_ranges(reply, &ram);
	reply_ranges(reply, &managed);
	return OK;
}

static bool any_work(void)
{
	uint32_t working = 0;

	for (unsigned i = 0; i < cpu_count; i++)
		working |= cpus[i].working;
	return working || conversions_run();
}

static uint32_t fill(const uint8_t *payload, struct reply *reply)
{
	uint64_t start = arch_ticks();

	if (any_work())
		return WORKING;
	fill_all(get_u64(payload));
	reply_u64(reply, managed_pages);
	reply_u64(reply, arch_ticks() - start);
	return OK;
}

static uint32_t start(const uint8_t *payload, struct reply *reply)
{
	(void)reply;
	if (!filled)
		return NOT_FILLED;
	if (get_u32(payload) >= WORK_KINDS)
		return BAD_PAYLOAD;
	work_start(get_u32(payload), get_u32(payload + 4), get_u64(payload + 8), get_u64(payload + 16), get_u32(payload + 24),
		get_u32(payload + 28));
	return OK;
}

static uint32_t stop(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	work_stop();
	reply_u32(reply, cpu_count);
	reply_u32(reply, work_damages);
	for (unsigned i = 0; i < cpu_count; i++) {
		reply_u64(reply, cpus[i].work.written);
		reply_u64(reply, cpus[i].work.verified);
		reply_u64(reply, cpus[i].work.bad);
	}
	if (work_damages)
		reply_put(reply, &work_damage, sizeof work_damage);
	work_damages = 0;
	return OK;
}

static uint32_t verify(const uint8_t *payload, struct reply *reply)
{
	static struct verify_result result;
	uint64_t begin = arch_ticks();

	if (!filled)
		return NOT_FILLED;
	if (any_work())
		return WORKING;
	verify_all(get_u32(payload), &result);
	reply_u64(reply, result.checked);
	reply_u64(reply, result.bad);
	reply_u64(reply, result.ledger_sum);
	reply_u64(reply, result.written_sum);
	reply_u64(reply, arch_ticks() - begin);
	for (unsigned kind = 1; kind < DAMAGE_KINDS; kind++)
		reply_u64(reply, result.by_kind[kind]);
	reply_u32(reply, result.records);
	reply_put(reply, result.record, result.records * (uint32_t)sizeof result.record[0]);
	return OK;
}

static uint32_t read_bytes(const uint8_t *payload, struct reply *reply)
{
	uint64_t gpa = get_u64(payload);
	uint32_t size = get_u32(payload + 8);

	if (size > MAX_COPY || !memory_is_ram(gpa, size))
		return NOT_RAM;
	reply_put(reply, (const void *)gpa, size);
	return OK;
}

static uint32_t write_bytes(const uint8_t *payload, uint32_t size)
{
	uint64_t gpa = get_u64(payload);

	size -= sizeof gpa;
	if (size > MAX_COPY || !memory_is_ram(gpa, size))
		return NOT_RAM;
	memcpy((void *)gpa, payload + sizeof gpa, size);
	return OK;
}

static uint32_t beat(const uint8_t *payload, struct reply *reply)
{
	reply_u64(reply, boot_id);
	reply_u64(reply, arch_ticks());
	reply_u32(reply, cpu_count);
	for (unsigned i = 0; i < cpu_count; i++)
		reply_put(reply, (const void *)&heartbeat->cpu[i], sizeof heartbeat->cpu[i]);
	if (get_u32(payload))
		heartbeat_reset_gaps();
	return OK;
}

static uint32_t arm(const uint8_t *payload, struct reply *reply)
{
	uint32_t mask = get_u32(payload + 8) & all_cpus();

	if (any_work())
		return WORKING;
	canary_check();
	canary_arm(mask, get_u64(payload));
	reply_u32(reply, mask);
	return OK;
}

static uint32_t check(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	canary_check();
	reply_u32(reply, cpu_count);
	for (unsigned i = 0; i < cpu_count; i++) {
		const struct canary *canary = &cpus[i].canary;
		uint32_t listed = canary->mismatches < CANARY_MAX_MISMATCHES ? canary->mismatches : CANARY_MAX_MISMATCHES;

		reply_u32(reply, canary->checks);
		reply_u32(reply, canary->mismatches);
		reply_u32(reply, listed);
		reply_put(reply, canary->list, listed * (uint32_t)sizeof canary->list[0]);
	}
	return OK;
}

static uint32_t clock(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	reply_u64(reply, arch_ticks_per_s());
	reply_u64(reply, arch_ticks());
	return OK;
}

static uint32_t measure(const uint8_t *payload, struct reply *reply)
{
	uint64_t pages = get_u64(payload + 8);

	if (any_work())
		return WORKING;
	pages = pages < managed_pages ? pages : managed_pages;
	reply_u64(reply, pages);
	reply_u64(reply, bench(get_u32(payload), pages));
	return OK;
}

static void reply_interrupts(struct reply *reply, const struct interrupts *list)
{
	uint32_t listed = list->count < EARLY_MAX_INTERRUPTS ? list->count : EARLY_MAX_INTERRUPTS;

	reply_u32(reply, list->count);
	reply_u32(reply, listed);
	reply_put(reply, list->at, listed * (uint32_t)sizeof list->at[0]);
}

static uint32_t before_reboot(const uint8_t *payload, struct reply *reply)
{
	static struct interrupts pending;

	if (!reboot_prepare(get_u32(payload), get_u32(payload + 4), get_u32(payload + 8), &pending))
		return NO_SUCH_WAY;
	reply_interrupts(reply, &pending);
	return OK;
}

static uint32_t say_early(const uint8_t *payload, struct reply *reply)
{
	const struct verify_result *result = &early.result;

	(void)payload;
	reply_u32(reply, early.state);
	reply_u32(reply, is_kexec);
	reply_u64(reply, early.boot_id);
	reply_u64(reply, early.boot_count);
	reply_u64(reply, result->checked);
	reply_u64(reply, early.locked);
	reply_u64(reply, early.spared);
	reply_u64(reply, result->bad);
	reply_u64(reply, early.ticks);
	for (unsigned kind = 1; kind < DAMAGE_KINDS; kind++)
		reply_u64(reply, result->by_kind[kind]);
	reply_interrupts(reply, &early.interrupts);
	reply_u32(reply, result->records);
	reply_put(reply, result->record, result->records * (uint32_t)sizeof result->record[0]);
	return OK;
}

static uint32_t spare(const uint8_t *payload, struct reply *reply)
{
	(void)reply;
	boot_page.spared = (struct range){ get_u64(payload), get_u64(payload + 8) };
	return OK;
}

/* One call of a real KVM, protected or not: the answer shows that it is one. */
static uint32_t call_kvm(const uint8_t *payload, struct reply *reply)
{
	struct kvm kvm = arch_kvm_find();
	struct registers call = { get_u64(payload), get_u64(payload + 8), get_u64(payload + 16), get_u64(payload + 24) };

	reply_u32(reply, kvm.call);
	reply_u32(reply, kvm.features);
	reply_u64(reply, kvm.call ? arch_kvm_call(kvm.call, &call) : 0);
	return OK;
}

static uint32_t nothing(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	(void)reply;
	return OK;
}

uint32_t command_execute(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	static const struct {
		uint32_t (*run)(const uint8_t *payload, struct reply *reply);
		uint32_t size;
	} command[] = {
		[CMD_DESCRIBE] = { describe, 0 }, [CMD_FILL] = { fill, 8 }, [CMD_START] = { start, 32 },
		[CMD_STOP] = { stop, 0 }, [CMD_VERIFY] = { verify, 4 }, [CMD_READ] = { read_bytes, 12 },
		[CMD_HEARTBEAT] = { beat, 4 }, [CMD_CANARY_ARM] = { arm, 12 }, [CMD_CANARY_CHECK] = { check, 0 },
		[CMD_HALT] = { nothing, 4 }, [CMD_CRASH] = { nothing, 4 }, [CMD_CLOCK] = { clock, 0 },
		[CMD_BENCH] = { measure, 16 }, [CMD_REBOOT] = { before_reboot, 12 }, [CMD_EARLY] = { say_early, 0 },
		[CMD_SPARE] = { spare, 16 }, [CMD_HYPERCALL] = { call_kvm, 32 },
	};

	arch_tables_catch_up();
	if (code >= CMD_IRQ)
		return irq_command(code, payload, size, reply);
	if (code >= CMD_CVM)
		return cvm_command(code, payload, size, reply);
	if (code == CMD_WRITE)
		return size < sizeof(uint64_t) ? BAD_PAYLOAD : write_bytes(payload, size);
	if (code >= sizeof command / sizeof command[0] || !command[code].run)
		return UNKNOWN_COMMAND;
	if (size != command[code].size)
		return BAD_PAYLOAD;
	return command[code].run(payload, reply);
}

void command_finish(uint16_t code, const uint8_t *payload, uint32_t size)
{
	cvm_command_finish(code);
	if (code == CMD_REBOOT || code == CMD_CRASH || code == CMD_HALT)
		channel_keep();
	if (code == CMD_REBOOT)
		reboot();
	if (size != 4)
		return;
	if (code == CMD_CRASH)
		arch_crash(get_u32(payload));
	if (code != CMD_HALT)
		return;
	console_line("HALT mode=%u", (uint64_t)get_u32(payload));
	if (get_u32(payload) == HALT_POWER_OFF)
		arch_power_off();
	if (get_u32(payload) == HALT_RESET)
		arch_reset();
	arch_halt_others();
	arch_halt();
}
