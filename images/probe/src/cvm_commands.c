/* Commands about memory protection: codes 32 and up, see PROTOCOL.md. */
#include "confidential.h"

enum {
	CMD_CVM = 32, CMD_MAP, CMD_CONVERT, CMD_CONVERSIONS, CMD_ENTER_KERNEL, CMD_KEXEC, CMD_ERRAND, CMD_OFFLINE, CMD_ONLINE,
	CMD_STALE, CMD_END
};
enum { OK = 0, UNKNOWN_COMMAND = 2, BAD_PAYLOAD = 3, NOT_FILLED = 4, NOT_RAM = 5, WORKING = 6, NOT_NOW = 7 };
enum { MAP_RANGES = 1000 };

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

static uint32_t describe(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	reply_u64(reply, (uint64_t)cvm_page);
	reply_put(reply, cvm_page, sizeof *cvm_page);
	return OK;
}

struct map {
	struct reply *reply;
	uint32_t total, first;
};

static void note_shared(void *state, uint64_t start, uint64_t end)
{
	struct map *map = state;

	if (map->total >= map->first && map->total < map->first + MAP_RANGES) {
		reply_u64(map->reply, start);
		reply_u64(map->reply, end);
	}
	map->total++;
}

/* The total is known when the walk is over, and stands in front of the ranges. */
static uint32_t walk(const uint8_t *payload, struct reply *reply)
{
	struct map map = { .reply = reply, .first = get_u32(payload) };

	reply_u32(reply, 0);
	arch_tables_walk(note_shared, &map);
	memcpy(reply->bytes, &map.total, sizeof map.total);
	return OK;
}

static uint32_t convert_range(const uint8_t *payload, struct reply *reply)
{
	uint64_t result;
	enum convert_status status = convert(&cpus[0], get_u64(payload), get_u64(payload + 8), get_u32(payload + 16), &result);

	if (status == CONVERT_NOT_MANAGED)
		return NOT_RAM;
	reply_u32(reply, status);
	reply_u64(reply, result);
	return OK;
}

static uint32_t convert_on(const uint8_t *payload, struct reply *reply)
{
	uint32_t shapes = get_u32(payload + 20);

	if (!get_u32(payload)) {
		reply_u64(reply, conversions_stop());
		return OK;
	}
	if (!(shapes & 7))
		return BAD_PAYLOAD;
	conversions_start(get_u32(payload + 4), get_u64(payload + 8), get_u32(payload + 16), shapes, get_u64(payload + 24));
	return OK;
}

static uint32_t run_errands(const uint8_t *payload, struct reply *reply)
{
	errands_run(get_u32(payload));
	for (unsigned i = 0; i < cpu_count; i++) {
		if (!(all_cpus() & 1u << i))
			continue;
		reply_u32(reply, i);
		reply_put(reply, errand_of(i), sizeof *errand_of(i));
	}
	return OK;
}

/* There and back again: the way back sees whether what was written through the shared view shows. */
static uint32_t look_for_stale(const uint8_t *payload, struct reply *reply)
{
	uint64_t gpa = get_u64(payload), before = cvm_page->counters[COUNT_STALE_BACKING], result;
	uint32_t pages = get_u32(payload + 8), tested = 0;

	if (!filled)
		return NOT_FILLED;
	for (; tested < pages; tested++, gpa += PAGE_SIZE)
		if (convert(&cpus[0], gpa, PAGE_SIZE, 0, &result) || convert(&cpus[0], gpa, PAGE_SIZE, CONVERT_PRIVATE, &result))
			break;
	reply_u32(reply, tested);
	reply_u32(reply, (uint32_t)(cvm_page->counters[COUNT_STALE_BACKING] - before));
	return OK;
}

static uint32_t go_offline(const uint8_t *payload, struct reply *reply)
{
	reply_u32(reply, cpus_offline(get_u32(payload)));
	return OK;
}

static uint32_t come_back(const uint8_t *payload, struct reply *reply)
{
	reply_u32(reply, cpus_online(get_u32(payload)));
	return OK;
}

static bool kexec_is_due;

static uint32_t before_kexec(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	(void)reply;
	if (cvm_page->phase != PHASE_KERNEL)
		return NOT_NOW;
	kexec_is_due = true;
	return OK;
}

static uint32_t enter(const uint8_t *payload, struct reply *reply)
{
	(void)payload;
	if (cvm_page->phase != PHASE_FIRMWARE)
		return NOT_NOW;
	enter_kernel();
	reply_u32(reply, cpu_count);
	return OK;
}

uint32_t cvm_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply)
{
	static const struct {
		uint32_t (*run)(const uint8_t *payload, struct reply *reply);
		uint32_t size;
	} command[] = {
		[CMD_CVM - CMD_CVM] = { describe, 0 }, [CMD_MAP - CMD_CVM] = { walk, 4 },
		[CMD_CONVERT - CMD_CVM] = { convert_range, 20 }, [CMD_ENTER_KERNEL - CMD_CVM] = { enter, 0 },
		[CMD_CONVERSIONS - CMD_CVM] = { convert_on, 32 }, [CMD_KEXEC - CMD_CVM] = { before_kexec, 0 },
		[CMD_OFFLINE - CMD_CVM] = { go_offline, 4 }, [CMD_ONLINE - CMD_CVM] = { come_back, 4 },
		[CMD_ERRAND - CMD_CVM] = { run_errands, 4 },
		[CMD_STALE - CMD_CVM] = { look_for_stale, 12 },
	};
	unsigned at = (unsigned)code - CMD_CVM;

	if (!cvm.kind || at >= sizeof command / sizeof command[0] || !command[at].run)
		return UNKNOWN_COMMAND;
	if (size != command[at].size)
		return BAD_PAYLOAD;
	return command[at].run(payload, reply);
}

void cvm_command_finish(uint16_t code)
{
	/* A repeat of the request that started this kernel is answered, and no more. */
	if (code == CMD_KEXEC && kexec_is_due)
		kexec();
}
