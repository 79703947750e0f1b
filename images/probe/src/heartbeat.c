/* The page that the host reads on both sides, and the boot page that a reset leaves alone. */
#include "probe.h"

#define HEARTBEAT_MAGIC 0x31424847494d5643ull  /* "CVMIGHB1" */

struct heartbeat_page *heartbeat;
uint64_t boot_id, boot_count;
bool is_kexec;

/* A reset counts a boot. A kernel that another one started finds the boot as it was. */
static void count_boot(void)
{
	bool kept = boot_page.magic == BOOT_MAGIC && boot_page.check == ~boot_page.count;

	is_kexec = kept && boot_page.is_kexec == BOOT_MAGIC;
	boot_page.is_kexec = 0;
	if (is_kexec)
		return;
	if (!kept)
		memset(&boot_page, 0, sizeof boot_page);
	boot_count = boot_page.count + 1;
	boot_page.magic = BOOT_MAGIC;
	boot_page.count = boot_count;
	boot_page.check = ~boot_count;
	boot_page.boot_id = arch_random();
	boot_page.kernels = boot_page.variable = boot_page.hypercalls = 0;
}

void heartbeat_init(void)
{
	count_boot();
	boot_count = boot_page.count;
	boot_id = boot_page.boot_id;
	heartbeat = memory_take(sizeof *heartbeat);
	heartbeat->magic = HEARTBEAT_MAGIC;
	heartbeat->boot_id = boot_id;
	heartbeat->boot_count = boot_count;
	heartbeat->layout = 1;
}

void heartbeat_tick(struct cpu *cpu)
{
	struct heartbeat_cpu *beat = &heartbeat->cpu[cpu->index];
	uint64_t now = arch_ticks(), before = beat->ticks;

	if (before && now < before && before - now > beat->max_back)
		beat->max_back = before - now;
	if (before && now > before && now - before > beat->max_gap) {
		beat->max_gap = now - before;
		beat->gap_at = now;
	}
	beat->ticks = now;
	beat->beats++;
	work_tick(cpu);
}

void heartbeat_reset_gaps(void)
{
	for (unsigned i = 0; i < cpu_count; i++) {
		heartbeat->cpu[i].max_back = 0;
		heartbeat->cpu[i].max_gap = 0;
		heartbeat->cpu[i].gap_at = 0;
	}
}
