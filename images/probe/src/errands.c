/* What a vCPU does first when it runs again somewhere else: MMIO through #VC, and an IPI to its neighbour. */
#include "confidential.h"

#define MMIO_WINDOW 0xfed40000ull
enum { MMIO_STEP = 8, MMIO_PLACES = 0xff0 / MMIO_STEP };

static struct errand errands[ARCH_MAX_CPUS];
static uint32_t reads_wanted;
static volatile uint32_t asked_by[ARCH_MAX_CPUS];     /* index + 1 of who waits for this vCPU's answer */
static volatile uint32_t answered[ARCH_MAX_CPUS];
static volatile uint64_t patience;

static void read_mmio(struct cpu *cpu, struct errand *errand)
{
	for (uint32_t i = 0; i < reads_wanted && cvm.kind == CVM_ES; i++) {
		uint64_t value, gpa = MMIO_WINDOW + (cpu->index * 64 + i) % MMIO_PLACES * MMIO_STEP;
		bool ok = arch_vc_read_mmio(cpu, gpa, 1u << i % 4, &value);

		count(ok ? COUNT_MMIO_OK : COUNT_MMIO_BAD);
		errand->mmio_ok += ok;
		errand->mmio_bad += !ok;
	}
}

static unsigned next_online(unsigned from)
{
	unsigned next = from;

	do
		next = (next + 1) % cpu_count;
	while (!cpus[next].online);
	return next;
}

static void ask_neighbour(struct cpu *cpu, struct errand *errand)
{
	unsigned target = next_online(cpu->index);
	uint64_t start = arch_ticks();

	answered[cpu->index] = 0;
	__atomic_store_n(&asked_by[target], cpu->index + 1, __ATOMIC_RELEASE);
	count(COUNT_IPIS_SENT);
	arch_errand_send(target);
	while (!__atomic_load_n(&answered[cpu->index], __ATOMIC_ACQUIRE) && arch_ticks() - start < patience)
		arch_relax();
	errand->ipi_ok = answered[cpu->index];
}

void errand_interrupt(struct cpu *cpu)
{
	uint32_t by = __atomic_exchange_n(&asked_by[cpu->index], 0, __ATOMIC_ACQ_REL);

	count(COUNT_IPIS_GOT);
	if (by)
		__atomic_store_n(&answered[by - 1], 1, __ATOMIC_RELEASE);
}

static void run(struct cpu *cpu)
{
	struct errand *errand = &errands[cpu->index];

	*errand = (struct errand){ 0 };
	read_mmio(cpu, errand);
	ask_neighbour(cpu, errand);
}

void errands_run(uint32_t reads)
{
	reads_wanted = reads;
	patience = 10 * arch_ticks_per_s();
	run_on_cpus(all_cpus(), run);
}

const struct errand *errand_of(unsigned cpu)
{
	return &errands[cpu];
}
