/* INIT and start-up IPIs (Intel SDM volume 3, "Multiple-Processor Management"). */
#include "x86.h"
#include "confidential.h"

enum { TRAMPOLINE = 0x8000, PATIENCE = 20000000 };

extern char trampoline_start[], trampoline_end[];
extern uint64_t application_stack[256];

_Noreturn void x86_application(void);
_Noreturn void x86_application(void)
{
	struct cpu *cpu = arch_this_cpu();

	traps_load(cpu->index);
	features_enable();
	lapic_init();
	lapic_timer_start();
	cvm_cpu_init(cpu);
	__atomic_store_n(&cpu->online, 1, __ATOMIC_RELEASE);
	arch_irq_on();
	cpu_loop(cpu);
}

static bool is_online(unsigned index)
{
	for (unsigned tries = 0; tries < PATIENCE; tries++) {
		if (__atomic_load_n(&cpus[index].online, __ATOMIC_ACQUIRE))
			return true;
		arch_relax();
	}
	return false;
}

static void start(unsigned index)
{
	lapic_send(tables.apic_id[index], IPI_INIT);
	lapic_send(tables.apic_id[index], IPI_STARTUP | TRAMPOLINE >> 12);
}

bool arch_cpu_wake(unsigned cpu)
{
	start(cpu);
	return is_online(cpu);
}

/* Who waits for the job to be done must find this vCPU gone already. */
void arch_cpu_park(struct cpu *cpu)
{
	arch_irq_off();
	__atomic_store_n(&cpu->online, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&cpu->job, (job_fn)0, __ATOMIC_RELEASE);
	arch_halt();
}

unsigned arch_start_cpus(void)
{
	unsigned count = 1;

	memcpy((void *)TRAMPOLINE, trampoline_start, (size_t)(trampoline_end - trampoline_start));
	for (unsigned i = 1; i < tables.cpus; i++) {
		cpus[i].index = i;
		x86_cpus[i].apic_id = tables.apic_id[i];
		*(struct cpu **)stacks[i][0] = &cpus[i];
		application_stack[tables.apic_id[i] & 0xff] = (uint64_t)stacks[i][0] + STACK_BYTES;
	}
	for (unsigned i = 1; i < tables.cpus; i++)
		start(i);
	for (; count < tables.cpus; count++)
		while (!is_online(count))
			console_line("cpu %u has not started yet", (uint64_t)count);
	return count;
}

void arch_errand_send(unsigned cpu)
{
	lapic_send(x86_cpus[cpu].apic_id, IPI_FIXED | VECTOR_ERRAND);
}

void arch_kick(unsigned cpu)
{
	if (cpu != arch_this_cpu()->index)
		lapic_send(x86_cpus[cpu].apic_id, IPI_FIXED | VECTOR_KICK);
}
