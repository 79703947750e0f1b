/* Fill and verify all managed memory on all vCPUs that are not armed with canaries. */
#include "confidential.h"

enum { SLICE_PAGES = 64, BENCH_STORE = 0, BENCH_LOAD = 1 };

struct share {
	uint64_t first, end;
	struct verify_result result;
};

bool filled;
static struct share share[ARCH_MAX_CPUS];
static uint32_t record_limit;

static uint32_t free_cpus(unsigned *count)
{
	uint32_t mask = 0;

	*count = 0;
	for (unsigned i = 0; i < cpu_count; i++)
		if (!i || (cpus[i].online && !cpus[i].canary.armed)) {
			mask |= 1u << i;
			++*count;
		}
	return mask;
}

static uint32_t split_shares(void)
{
	unsigned workers, nth = 0;
	uint32_t mask = free_cpus(&workers);

	for (unsigned i = 0; i < cpu_count; i++) {
		if (!(mask & 1u << i))
			continue;
		share[i].first = managed_pages * nth / workers;
		share[i].end = managed_pages * ++nth / workers;
	}
	return mask;
}

static void breathe(const struct cpu *cpu, uint64_t page)
{
	if (!cpu->index && page % SLICE_PAGES == 0 && channel_pending())
		channel_poll_busy();
}

static void fill_share(struct cpu *cpu)
{
	struct share *mine = &share[cpu->index];

	arch_tables_catch_up();
	for (uint64_t page = mine->first; page < mine->end; page++) {
		uint64_t gpa = memory_page_gpa(page);

		pattern_write(gpa, 1, view_seed(gpa));
		views_note(page, view_seed(gpa) != pattern_seed);
		ledger[page] = 1;
		breathe(cpu, page);
	}
	heartbeat->cpu[cpu->index].written = mine->end - mine->first;
}

void fill_all(uint64_t seed)
{
	uint32_t mask = split_shares();

	keepsake_drop();
	pattern_seed = seed;
	heartbeat->seed = seed;
	for (unsigned i = 0; i < cpu_count; i++)
		heartbeat->cpu[i].written = 0;
	run_on_cpus(mask, fill_share);
	filled = true;
	keepsake_set();
}

static void note_damage(struct verify_result *result, uint64_t gpa, uint32_t generation)
{
	struct damage damage;
	enum damage_kind kind = diagnose(gpa, generation, view_seed(gpa), &damage);

	if (kind == DAMAGE_NONE)
		return;
	result->bad++;
	result->by_kind[kind]++;
	if (result->records < record_limit)
		result->record[result->records++] = damage;
}

static void verify_share(struct cpu *cpu)
{
	struct share *mine = &share[cpu->index];
	struct verify_result *result = &mine->result;

	arch_tables_catch_up();
	memset(result, 0, sizeof *result);
	for (uint64_t page = mine->first; page < mine->end; page++) {
		uint32_t generation = ledger[page] & ~LEDGER_LOCK;
		uint64_t gpa = memory_page_gpa(page);

		if (!pattern_matches(gpa, generation, view_seed(gpa)))
			note_damage(result, gpa, generation);
		result->ledger_sum += generation;
		result->checked++;
		breathe(cpu, page);
	}
}

static void merge(struct verify_result *total, const struct verify_result *part)
{
	total->checked += part->checked;
	total->bad += part->bad;
	total->ledger_sum += part->ledger_sum;
	for (unsigned kind = 0; kind < DAMAGE_KINDS; kind++)
		total->by_kind[kind] += part->by_kind[kind];
	for (uint32_t i = 0; i < part->records && total->records < record_limit; i++)
		total->record[total->records++] = part->record[i];
}

void verify_all(uint32_t limit, struct verify_result *result)
{
	uint32_t mask = split_shares();

	record_limit = limit < VERIFY_MAX_RECORDS ? limit : VERIFY_MAX_RECORDS;
	run_on_cpus(mask, verify_share);
	memset(result, 0, sizeof *result);
	for (unsigned i = 0; i < cpu_count; i++) {
		result->written_sum += heartbeat->cpu[i].written;
		if (mask & 1u << i)
			merge(result, &share[i].result);
	}
}

uint64_t bench(uint32_t kind, uint64_t pages)
{
	uint64_t start = arch_ticks(), sum = 0;

	filled = filled && kind != BENCH_STORE;
	if (!filled)
		keepsake_drop();
	for (uint64_t page = 0; page < pages && page < managed_pages; page++) {
		volatile uint64_t *word = (volatile uint64_t *)memory_page_gpa(page), *end = word + WORDS_PER_PAGE;

		for (; word < end; word += WORDS_PER_LINE)
			if (kind == BENCH_STORE)
				for (unsigned i = 0; i < WORDS_PER_LINE; i++)
					word[i] = page;
			else
				for (unsigned i = 0; i < WORDS_PER_LINE; i++)
					sum |= word[i];
	}
	__asm__ volatile("" : : "r"(sum));
	return arch_ticks() - start;
}
