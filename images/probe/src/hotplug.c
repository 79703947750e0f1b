/* vCPUs that leave the kernel and come back, and the kernel that leaves for another one. */
#include "confidential.h"

static void leave(struct cpu *cpu)
{
	cpu->working = 0;
	conversions_leave(cpu);
	cpu->canary.armed = 0;
	cvm_cpu_leave(cpu);
	arch_cpu_park(cpu);
}

uint32_t cpus_offline(uint32_t mask)
{
	run_on_cpus(mask & all_cpus() & ~1u, leave);
	return all_cpus();
}

uint32_t cpus_online(uint32_t mask)
{
	for (unsigned i = 1; i < cpu_count; i++)
		if (mask & ~all_cpus() & 1u << i && !arch_cpu_wake(i))
			console_line("cpu %u does not come back", (uint64_t)i);
	return all_cpus();
}

void kexec(void)
{
	work_stop();
	conversions_stop();
	canary_check();
	cpus_offline(all_cpus());
	cvm_cpu_leave(&cpus[0]);
	console_line("kexec: kernel %u ends", boot_page.kernels);
	arch_irq_off();
	boot_page.is_kexec = BOOT_MAGIC;
	channel_keep();
	arch_kexec();
}
