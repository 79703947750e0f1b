/* The first thing that a boot does: judge the memory that the boot before it left, by what that one kept in the boot page.
 * Nothing may be taken of memory before, for the old ledger lies where the new one will. */
#include "confidential.h"

struct early early;

static uint32_t keepsake_crc(const struct keepsake *keepsake)
{
	return crc32(keepsake, __builtin_offsetof(struct keepsake, crc));
}

void keepsake_drop(void)
{
	boot_page.keepsake = (struct keepsake){ .is_there = 0 };
}

void keepsake_set(void)
{
	struct keepsake *keepsake = &boot_page.keepsake;

	*keepsake = (struct keepsake){
		.seed = pattern_seed, .ledger_gpa = (uint64_t)ledger, .views_gpa = (uint64_t)views, .managed = managed, .is_there = 1,
	};
	keepsake->crc = keepsake_crc(keepsake);
}

void interrupts_note(struct interrupts *list, enum interrupt_state state, unsigned cpu, uint32_t number)
{
	if (list->count < EARLY_MAX_INTERRUPTS)
		list->at[list->count] = (uint32_t)state << 24 | cpu << 16 | number;
	list->count++;
}

static void note_damage(uint64_t gpa, uint32_t generation, uint64_t seed)
{
	struct verify_result *result = &early.result;
	struct damage damage;
	enum damage_kind kind = diagnose(gpa, generation, seed, &damage);

	if (kind == DAMAGE_NONE)
		return;
	result->bad++;
	result->by_kind[kind]++;
	if (result->records < VERIFY_MAX_RECORDS)
		result->record[result->records++] = damage;
}

/* A page that was being written when the machine was reset may hold anything. */
static void look_at(const struct keepsake *kept, uint64_t gpa, uint64_t page)
{
	uint32_t generation = ((const uint32_t *)kept->ledger_gpa)[page];
	bool shared = kept->views_gpa && ((const uint8_t *)kept->views_gpa)[page / 8] >> page % 8 & 1;
	uint64_t seed = shared ? kept->seed ^ SHARED_SEED : kept->seed;

	if (gpa >= boot_page.spared.start && gpa < boot_page.spared.end) {
		early.spared++;
		return;
	}
	if (generation & LEDGER_LOCK) {
		early.locked++;
		return;
	}
	early.result.checked++;
	early.result.ledger_sum += generation;
	if (!pattern_matches(gpa, generation, seed))
		note_damage(gpa, generation, seed);
}

static void look_at_memory(const struct keepsake *kept)
{
	uint64_t page = 0, start = arch_ticks();

	for (unsigned i = 0; i < kept->managed.count; i++)
		for (uint64_t gpa = kept->managed.at[i].start; gpa < kept->managed.at[i].end; gpa += PAGE_SIZE)
			look_at(kept, gpa, page++);
	early.ticks = arch_ticks() - start;
}

static bool is_zero(const void *bytes, size_t size)
{
	const uint8_t *byte = bytes;
	size_t at = 0;

	while (at < size && !byte[at])
		at++;
	return at == size;
}

void early_look(void)
{
	const struct keepsake *kept = &boot_page.keepsake;
	bool is_whole = boot_page.magic == BOOT_MAGIC && boot_page.check == ~boot_page.count;

	arch_interrupts(&early.interrupts);
	early.boot_id = boot_page.boot_id;
	early.boot_count = boot_page.count;
	if (!is_whole || (kept->is_there && kept->crc != keepsake_crc(kept))) {
		/* Memory of a machine that was just switched on is zero. */
		early.state = is_zero(&boot_page, sizeof boot_page) ? EARLY_NOTHING : EARLY_SPOILED;
	} else if (kept->is_there) {
		early.state = EARLY_LOOKED;
		look_at_memory(kept);
	}
	keepsake_drop();
}
