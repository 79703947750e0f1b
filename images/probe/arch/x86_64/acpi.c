/* What the firmware's tables say about processors, the I/O APIC, and the power button (ACPI 6.5, chapter 5). */
#include "x86.h"

struct machine_tables tables = { .cpus = 1, .ioapic_gpa = 0xfec00000, .channel_gsi = 3 };
enum { CHANNEL_ISA_IRQ = 3, MADT_LOCAL_APIC = 0, MADT_IO_APIC = 1, MADT_OVERRIDE = 2, MADT_ENTRIES = 44 };
enum { FADT_FLAGS = 112, FADT_RESET = 116, FADT_RESET_VALUE = 128, RESET_REG_SUP = 1 << 10, IO_SPACE = 1 };

static uint32_t u32_at(uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, (const void *)gpa, sizeof value);
	return value;
}

static uint16_t u16_at(uint64_t gpa)
{
	return (uint16_t)(u32_at(gpa) & 0xffff);
}

static uint8_t u8_at(uint64_t gpa)
{
	return *(const volatile uint8_t *)gpa;
}

static void add_cpu(uint64_t entry, uint32_t boot_apic_id)
{
	uint8_t id = u8_at(entry + 3);

	if (u32_at(entry + 4) & 1 && id != boot_apic_id && tables.cpus < ARCH_MAX_CPUS)
		tables.apic_id[tables.cpus++] = id;
}

static void read_madt(uint64_t madt)
{
	uint64_t end = madt + u32_at(madt + 4);

	tables.apic_id[0] = lapic_id();
	for (uint64_t entry = madt + MADT_ENTRIES; entry + 2 <= end && u8_at(entry + 1) >= 2; entry += u8_at(entry + 1)) {
		if (u8_at(entry) == MADT_LOCAL_APIC)
			add_cpu(entry, tables.apic_id[0]);
		if (u8_at(entry) == MADT_IO_APIC && !u32_at(entry + 8))
			tables.ioapic_gpa = u32_at(entry + 4);
		if (u8_at(entry) == MADT_OVERRIDE && u8_at(entry + 3) == CHANNEL_ISA_IRQ) {
			tables.channel_gsi = u32_at(entry + 4);
			tables.channel_flags = u16_at(entry + 8);
		}
	}
}

/* RESET_REG is a generic address: space, width, offset, access size, address. */
static void read_fadt(uint64_t fadt)
{
	tables.pm1a_control_port = u16_at(fadt + 64);
	if (u32_at(fadt + 4) <= FADT_RESET_VALUE || !(u32_at(fadt + FADT_FLAGS) & RESET_REG_SUP) || u8_at(fadt + FADT_RESET) != IO_SPACE)
		return;
	tables.reset_port = u16_at(fadt + FADT_RESET + 4);
	tables.reset_value = u8_at(fadt + FADT_RESET_VALUE);
}

static void read_table(uint64_t table)
{
	if (!memcmp((const void *)table, "APIC", 4))
		read_madt(table);
	if (!memcmp((const void *)table, "FACP", 4))
		read_fadt(table);
}

static uint64_t scan_for_rsdp(void)
{
	for (uint64_t gpa = 0xe0000; gpa < 0x100000; gpa += 16)
		if (!memcmp((const void *)gpa, "RSD PTR ", 8))
			return gpa;
	return 0;
}

void acpi_read(uint64_t rsdp)
{
	uint64_t rsdt;

	rsdp = rsdp ? rsdp : scan_for_rsdp();
	if (!rsdp)
		return;
	rsdt = u32_at(rsdp + 16);
	for (uint64_t at = rsdt + 36; at + 4 <= rsdt + u32_at(rsdt + 4); at += 4)
		read_table(u32_at(at));
}
