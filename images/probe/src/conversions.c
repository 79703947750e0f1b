/* Conversions as a workload: drawn ranges, back and forth, on any vCPU, beside whatever else it does. */
#include "confidential.h"

enum { SHAPE_PAGE = 1, SHAPE_LARGE = 2, SHAPE_ODD = 4, ODD_BYTES = 65536 };
#define TWO_MIB 0x200000ull

static struct churn {
	volatile uint32_t working;
	uint32_t per_tick, shapes;
	uint64_t random, window, done;
	volatile uint64_t budget;
} churns[ARCH_MAX_CPUS];

static uint64_t draw(struct churn *churn)
{
	churn->random += 0x9e3779b97f4a7c15ull;
	return mix64(churn->random);
}

bool conversions_are_due(const struct cpu *cpu)
{
	const struct churn *churn = &churns[cpu->index];

	return churn->working && (!churn->per_tick || churn->budget);
}

bool conversions_run(void)
{
	uint32_t working = 0;

	for (unsigned i = 0; i < cpu_count; i++)
		working |= churns[i].working;
	return working;
}

void conversions_tick(struct cpu *cpu)
{
	churns[cpu->index].budget = churns[cpu->index].per_tick;
}

static uint32_t draw_shape(struct churn *churn)
{
	uint32_t shapes[3], count = 0;

	for (uint32_t shape = SHAPE_PAGE; shape <= SHAPE_ODD; shape <<= 1)
		if (churn->shapes & shape)
			shapes[count++] = shape;
	return shapes[draw(churn) % count];
}

static uint64_t end_of(uint64_t gpa)
{
	for (unsigned i = 0; i < managed.count; i++)
		if (gpa >= managed.at[i].start && gpa < managed.at[i].end)
			return managed.at[i].end;
	return gpa;
}

static struct range draw_range(struct churn *churn)
{
	uint64_t gpa = memory_page_gpa(draw(churn) % churn->window), end = end_of(gpa), start = gpa, bytes = PAGE_SIZE;
	uint32_t shape = draw_shape(churn);

	if (shape == SHAPE_ODD) {
		start = gpa + draw(churn) % PAGE_SIZE;
		bytes = 1 + draw(churn) % ODD_BYTES;
	}
	if (shape == SHAPE_LARGE && end_of(gpa & ~(TWO_MIB - 1)) == end) {
		start = gpa & ~(TWO_MIB - 1);
		bytes = TWO_MIB;
	}
	return (struct range){ start, bytes < end - start ? start + bytes : end };
}

void conversions_slice(struct cpu *cpu)
{
	struct churn *churn = &churns[cpu->index];
	struct range range = draw_range(churn);
	uint64_t how = draw(churn), result;
	uint32_t flags = (how & 1 ? CONVERT_PRIVATE : 0) | (how & 2 ? CONVERT_HYPERCALL_FIRST : 0);

	if (churn->per_tick)
		churn->budget--;
	convert(cpu, range.start, range.end - range.start, flags, &result);
	churn->done++;
}

void conversions_leave(struct cpu *cpu)
{
	churns[cpu->index].working = 0;
}

void conversions_start(uint32_t mask, uint64_t seed, uint32_t per_tick, uint32_t shapes, uint64_t window)
{
	run_on_cpus(mask & all_cpus(), conversions_leave);
	for (unsigned i = 0; i < cpu_count; i++) {
		if (!(mask & all_cpus() & 1u << i))
			continue;
		churns[i] = (struct churn){ .per_tick = per_tick, .shapes = shapes, .random = mix64(seed + i) };
		churns[i].window = window && window < managed_pages ? window : managed_pages;
		__atomic_store_n(&churns[i].working, 1, __ATOMIC_RELEASE);
		arch_kick(i);
	}
}

uint64_t conversions_stop(void)
{
	uint64_t done = 0;

	run_on_cpus(all_cpus(), conversions_leave);
	for (unsigned i = 0; i < cpu_count; i++)
		done += churns[i].done;
	return done;
}
