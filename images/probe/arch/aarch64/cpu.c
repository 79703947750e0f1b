/* The rest of arch.h for aarch64: boot order, other vCPUs, interrupt mask, the ways to stop. */
#include "confidential.h"
#include "arm.h"

enum { PATIENCE = 20000000 };

const uint32_t arch_id = ARCH_AARCH64;
const uint64_t arch_reserved_end = 0x40100000;  /* QEMU's virt puts the device tree there, a MiB at most */

_Noreturn void arm_boot(void *device_tree);
_Noreturn void arm_boot(void *device_tree)
{
	traps_init();
	machine_read(device_tree);
	paging_map_device(machine.ecam_gpa);
	serial_init();
	probe_main(device_tree);
}

void arch_map_ram(void)
{
	paging_map_ram();
}

void arch_init_boot_cpu(void)
{
	console_line("entered at EL%u", arm_boot_el);
	gic_init();
	gic_init_cpu();
	if (serial_intid())
		gic_route(serial_intid(), READ_REGISTER(MPIDR_EL1));
	timer_start();
}

_Noreturn void arm_application(void);
_Noreturn void arm_application(void)
{
	struct cpu *cpu = arch_this_cpu();

	gic_init_cpu();
	timer_start();
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

unsigned arch_start_cpus(void)
{
	unsigned count = 1;

	for (unsigned i = 1; i < machine.cpus; i++)
		if (!psci_start_cpu(machine.mpidr[i], (uint64_t)stacks[i][STACK_MAIN] + STACK_BYTES))
			console_line("cpu %u cannot be started", (uint64_t)i);
	for (; count < machine.cpus; count++)
		while (!is_online(count))
			console_line("cpu %u has not started yet", (uint64_t)count);
	return count;
}

void arch_kick(unsigned cpu)
{
	if (cpu != arch_this_cpu()->index)
		gic_send(SGI_KICK, machine.mpidr[cpu]);
}

void arch_halt_others(void)
{
	gic_halt_all_others();
}

void arch_irq_on(void)
{
	__asm__ volatile("msr daifclr, %0" : : "i"(DAIF_IRQ) : "memory");
}

void arch_irq_off(void)
{
	__asm__ volatile("msr daifset, %0" : : "i"(DAIF_IRQ) : "memory");
}

uint64_t arch_irq_save(void)
{
	uint64_t flags = READ_REGISTER(DAIF);

	arch_irq_off();
	return flags;
}

bool arch_irq_was_on(uint64_t flags)
{
	return !(flags & PSTATE_I);
}

void arch_irq_restore(uint64_t flags)
{
	WRITE_REGISTER(DAIF, flags);
}

void arch_wait_for_irq(void)
{
	__asm__ volatile("dsb sy; wfi; msr daifclr, %0" : : "i"(DAIF_IRQ) : "memory");
}

void arch_relax(void)
{
	__asm__ volatile("yield" : : : "memory");
}

void arch_flush_tlb(void)
{
	__asm__ volatile("dsb ishst; tlbi vmalle1; dsb nsh; isb" : : : "memory");
}

uint64_t arch_random(void)
{
	return pattern_key(arch_ticks(), 0, machine.random);
}

_Noreturn void arch_halt(void)
{
	for (;;)
		__asm__ volatile("msr daifset, #0xf; wfi");
}

void arch_power_off(void)
{
	psci_power_off();
}

void arch_reset(void)
{
	psci_reset();
	arch_halt();
}
