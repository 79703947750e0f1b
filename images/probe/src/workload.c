/* Page writers. A slice is one page, so that the boot processor stays able to answer. */
#include "confidential.h"

struct damage work_damage;
volatile uint32_t work_damages;

static uint64_t next_random(struct work *work)
{
	uint64_t x = work->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return work->random = x;
}

static void write_page(struct cpu *cpu, uint64_t page)
{
	struct heartbeat_cpu *beat = &heartbeat->cpu[cpu->index];
	uint64_t gpa = memory_page_gpa(page);
	uint32_t generation;

	if (leaked_any(gpa, gpa + PAGE_SIZE))
		return;
	generation = ledger_lock(page) + 1;
	beat->writing_gpa = gpa;
	pattern_write(gpa, generation, view_seed(gpa));
	beat->written++;
	ledger_unlock(page, generation);
	beat->writing_gpa = 0;
	cpu->work.written++;
}

static void verify_page(struct cpu *cpu, uint64_t page)
{
	uint64_t gpa = memory_page_gpa(page);
	uint32_t generation;
	uint64_t seed;
	struct damage damage;

	if (leaked_any(gpa, gpa + PAGE_SIZE))
		return;
	generation = ledger_lock(page);
	seed = view_seed(gpa);
	if (!pattern_matches(gpa, generation, seed) && diagnose(gpa, generation, seed, &damage)) {
		cpu->work.bad++;
		if (!__atomic_fetch_add(&work_damages, 1, __ATOMIC_ACQ_REL))
			work_damage = damage;
	}
	ledger_unlock(page, generation);
	cpu->work.verified++;
}

static uint64_t next_in_order(struct work *work)
{
	uint64_t page = work->first + work->next;

	work->next = work->next + 1 == work->count ? 0 : work->next + 1;
	return page;
}

static uint64_t next_hot(struct work *work)
{
	uint64_t hot = work->count / 16 ? work->count / 16 : 1;
	uint64_t draw = next_random(work);

	return work->first + (draw >> 4) % (draw % 16 ? hot : work->count);
}

static void step(struct cpu *cpu, struct work *work)
{
	switch (work->kind) {
	case WORK_SEQUENTIAL:
	case WORK_FULL:
		return write_page(cpu, next_in_order(work));
	case WORK_RANDOM:
	case WORK_SHARED:
		return write_page(cpu, work->first + next_random(work) % work->count);
	case WORK_HOT_SET:
		return write_page(cpu, next_hot(work));
	case WORK_READ_MOSTLY: {
		uint64_t draw = next_random(work);

		return (draw % 16 ? verify_page : write_page)(cpu, work->first + (draw >> 4) % work->count);
	}
	default:
		return;
	}
}

bool work_is_due(const struct cpu *cpu)
{
	return cpu->working && (!cpu->work.pages_per_tick || *(const volatile uint64_t *)&cpu->work.budget);
}

void work_slice(struct cpu *cpu)
{
	struct work *work = &cpu->work;

	if (work->pages_per_tick)
		work->budget--;
	if (work->pages_per_flush && ++work->unflushed >= work->pages_per_flush) {
		work->unflushed = 0;
		arch_flush_tlb();
	}
	step(cpu, work);
}

void work_tick(struct cpu *cpu)
{
	cpu->work.budget = cpu->work.pages_per_tick;
}

static void rest(struct cpu *cpu)
{
	cpu->working = 0;
}

void work_start(uint32_t kind, uint32_t mask, uint64_t seed, uint64_t pages, uint32_t pages_per_tick,
		uint32_t pages_per_flush)
{
	uint64_t set = pages && pages < managed_pages ? pages : managed_pages;

	mask &= all_cpus();
	run_on_cpus(mask, rest);        /* a vCPU must not see its orders change amid a page */
	for (unsigned i = 0; i < cpu_count; i++) {
		struct work *work = &cpus[i].work;
		uint64_t first = managed_pages * i / cpu_count, count = set * (i + 1) / cpu_count - set * i / cpu_count;

		if (!(mask & 1u << i))
			continue;
		if (kind == WORK_SHARED)
			first = 0, count = set;
		*work = (struct work){ .kind = kind, .seed = seed, .first = first, .count = count ? count : 1 };
		work->pages_per_tick = kind == WORK_FULL ? 0 : pages_per_tick;
		work->pages_per_flush = pages_per_flush;
		work->random = pattern_key(i, kind, seed) | 1;
		__atomic_store_n(&cpus[i].working, kind != WORK_IDLE, __ATOMIC_RELEASE);
		arch_kick(i);
	}
}

void work_stop(void)
{
	uint32_t mask = 1;

	cpus[0].working = 0;
	for (unsigned i = 1; i < cpu_count; i++)
		mask |= (uint32_t)!!cpus[i].working << i;
	run_on_cpus(mask, rest);
}
