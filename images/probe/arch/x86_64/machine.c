/* The rest of arch.h for x86_64: boot order, interrupt flag, clocks, the ways to stop. */
#include "x86.h"
#include "confidential.h"

#define START_INFO_MAGIC 0x336ec578u
#define KEXEC_MAGIC 0x4345584bu         /* what kexec.S leaves in ebp */
#define MMCONFIG 0xb0000000ull
enum { E820_RAM = 1, SLEEP_ENABLE = 0x2000 };

/* xen/include/public/arch-x86/hvm/start_info.h */
struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
struct memmap_entry {
	uint64_t start, size;
	uint32_t type, reserved;
};

const uint32_t arch_id = ARCH_X86_64;
const uint64_t arch_reserved_end = 0x100000;
uint64_t low_ram_end;
static uint64_t rsdp_gpa;
static void *start_info;

extern char data_start[], data_end[], pristine_data[];
void kexec_jump(void *boot_info);

_Noreturn void x86_boot(void *boot_info, uint32_t from);
_Noreturn void x86_boot(void *boot_info, uint32_t from)
{
	/* A reset amid a kexec is a reset. */
	if (from != KEXEC_MAGIC)
		boot_page.is_kexec = 0;
	memcpy(pristine_data, data_start, (size_t)(data_end - data_start));
	traps_init();
	traps_load(0);
	serial_init();
	probe_main(boot_info);
}

void arch_find_memory(void *boot_info)
{
	const struct start_info *info = boot_info;
	const struct memmap_entry *entry = (const struct memmap_entry *)info->memmap;

	if (info->magic != START_INFO_MAGIC)
		console_line("no PVH start info at %x", (uint64_t)boot_info);
	start_info = boot_info;
	rsdp_gpa = info->rsdp;
	settings_read((const char *)info->cmdline);
	for (uint32_t i = 0; i < info->memmap_entries; i++, entry++) {
		uint64_t end = entry->start + entry->size;

		if (entry->type == E820_RAM)
			memory_add_ram(entry->start, end);
		/* What firmware reserves of RAM is RAM; q35 has nothing but devices from the MMCONFIG window on. */
		if (entry->start < MMCONFIG && end > low_ram_end)
			low_ram_end = end;
	}
}

void arch_map_ram(void)
{
	paging_map_ram();
}

void arch_interrupts(struct interrupts *list)
{
	lapic_interrupts(list);
	ioapic_interrupts(list);
}

void arch_pend_interrupts(void)
{
	lapic_pend(VECTOR_PENDED, VECTORS_PENDED);
}

void features_enable(void)
{
	struct cpuid id = cpuid(1, 0);
	uint64_t cr4 = READ_REGISTER(cr4) | 1u << 9 | 1u << 10;
	bool xsave = id.c & 1u << 26;

	WRITE_REGISTER(cr4, xsave ? cr4 | 1u << 18 : cr4);
	if (xsave)
		__asm__ volatile("xsetbv" : : "a"(id.c & 1u << 28 ? 7 : 3), "d"(0), "c"(0));
	__asm__ volatile("fninit");
}

void arch_init_boot_cpu(void)
{
	features_enable();
	if (cvm.kind)
		arch_tables_protect();
	acpi_read(rsdp_gpa);
	x86_cpus[0].apic_id = lapic_id();
	lapic_init();
	ioapic_route(tables.channel_gsi, VECTOR_CHANNEL, x86_cpus[0].apic_id, tables.channel_flags);
	lapic_timer_start();
}

void arch_irq_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

void arch_irq_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

uint64_t arch_irq_save(void)
{
	uint64_t flags;

	__asm__ volatile("pushfq; pop %0; cli" : "=r"(flags) : : "memory");
	return flags;
}

bool arch_irq_was_on(uint64_t flags)
{
	return flags & 0x200;
}

void arch_irq_restore(uint64_t flags)
{
	__asm__ volatile("push %0; popfq" : : "r"(flags) : "memory", "cc");
}

void arch_wait_for_irq(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

void arch_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

void arch_flush_tlb(void)
{
	uint64_t root;

	/* No page is global, so this forgets them all. */
	__asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(root) : : "memory");
}

uint64_t arch_ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static uint64_t measure_ticks_per_s(void)
{
	uint32_t start = lapic_timer_left_ns(), ns;
	uint64_t ticks = arch_ticks();

	do
		ns = (start + LAPIC_TIMER_NS - lapic_timer_left_ns()) % LAPIC_TIMER_NS;
	while (ns < LAPIC_TIMER_NS / 10);
	return (arch_ticks() - ticks) * 1000000000ull / ns;
}

/* A vCPU thread that loses its processor makes the figure too large, never too small. */
uint64_t arch_ticks_per_s(void)
{
	uint64_t best = measure_ticks_per_s();

	for (int i = 0; i < 2; i++) {
		uint64_t next = measure_ticks_per_s();

		best = next < best ? next : best;
	}
	return best;
}

uint64_t arch_random(void)
{
	uint64_t value = 0;

	if (cpuid(1, 0).c & 1u << 30)
		__asm__ volatile("rdrand %0" : "=r"(value) : : "cc");
	return pattern_key(arch_ticks(), 0, value);
}

_Noreturn void arch_halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

void arch_power_off(void)
{
	if (tables.pm1a_control_port)
		outw(tables.pm1a_control_port, SLEEP_ENABLE);
}

void arch_reset(void)
{
	arch_reboot(REBOOT_RESET_PORT);
	arch_halt();
}

void arch_kexec(void)
{
	kexec_jump(start_info);
}
