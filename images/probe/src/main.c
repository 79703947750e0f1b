/* The life of a vCPU: jobs first, then canaries, then the workload, else sleep. The boot processor also serves commands. */
#include "confidential.h"
#include "irq.h"

enum { EVENT_READY = 1 };

struct cpu cpus[ARCH_MAX_CPUS];
unsigned cpu_count = 1;

uint32_t all_cpus(void)
{
	uint32_t mask = 0;

	for (unsigned i = 0; i < cpu_count; i++)
		mask |= (uint32_t)!!cpus[i].online << i;
	return mask;
}

void run_on_cpus(uint32_t mask, job_fn job)
{
	for (unsigned i = 1; i < cpu_count; i++)
		if (mask & 1u << i) {
			__atomic_store_n(&cpus[i].job, job, __ATOMIC_RELEASE);
			arch_kick(i);
		}
	if (mask & 1)
		job(&cpus[0]);
	for (unsigned i = 1; i < cpu_count; i++)
		while (__atomic_load_n(&cpus[i].job, __ATOMIC_ACQUIRE)) {
			if (channel_pending())
				channel_poll_busy();
			arch_relax();
		}
}

bool has_duty(const struct cpu *cpu)
{
	return cpu->job || work_is_due(cpu) || conversions_are_due(cpu) || arch_has_duty(cpu) ||
		(!cpu->index && channel_pending());
}

void cpu_duty(struct cpu *cpu)
{
	job_fn job = __atomic_load_n(&cpu->job, __ATOMIC_ACQUIRE);

	if (!cpu->index && channel_pending())
		channel_poll();
	if (job) {
		job(cpu);
		__atomic_store_n(&cpu->job, (job_fn)0, __ATOMIC_RELEASE);
	}
	if (work_is_due(cpu))
		work_slice(cpu);
	if (conversions_are_due(cpu))
		conversions_slice(cpu);
	if (arch_has_duty(cpu))
		arch_do_duty(cpu);
}

_Noreturn void cpu_loop(struct cpu *cpu)
{
	for (;;) {
		if (irq_holds(cpu)) {
			irq_hold_run(cpu);
			continue;
		}
		if (has_duty(cpu)) {
			cpu_duty(cpu);
			continue;
		}
		arch_irq_off();
		if (has_duty(cpu) || irq_holds(cpu))
			arch_irq_on();
		else if (cpu->canary.armed)
			arch_canary_spin(cpu, cpu->canary.seed);
		else
			arch_wait_for_irq();
	}
}

static void say_ready(void)
{
	struct {
		uint64_t boot_id, boot_count;
		uint32_t cpus, version;
	} ready = { boot_id, boot_count, cpu_count, PROBE_VERSION };

	console_line("cvmig probe %u: %u cpus, %u pages, boot %u", (uint64_t)PROBE_VERSION, (uint64_t)cpu_count,
		     managed_pages, boot_count);
	channel_event(EVENT_READY, &ready, sizeof ready);
}

void enter_kernel(void)
{
	cvm_kernel_begin();
	cpu_count = arch_start_cpus();
	heartbeat->cpus = cpu_count;
	cvm_kernel_end();
}

_Noreturn void probe_main(void *boot_info)
{
	arch_find_memory(boot_info);
	arch_map_ram();
	early_look();
	heartbeat_init();
	if (is_kexec || boot_count > 1)
		channel_restore();
	cvm_take_memory();
	irq_take_memory();
	arch_init_boot_cpu();
	memory_settle();
	heartbeat->ledger_gpa = (uint64_t)ledger;
	heartbeat->managed_pages = managed_pages;
	heartbeat->cpus = 1;
	cpus[0].online = 1;
	cvm_firmware();
	if (!cvm.hold || is_kexec)
		enter_kernel();
	arch_irq_on();
	say_ready();
	cpu_loop(&cpus[0]);
}
