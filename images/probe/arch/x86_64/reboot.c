/* The ways in which a PC is rebooted, as Linux' arch/x86/kernel/reboot.c knows them, and two devices that help. */
#include "x86.h"
#include "confidential.h"

enum { RESET_PORT = 0xcf9, KEYBOARD_COMMAND = 0x64, PULSE_RESET = 0xfe };
#define FREE_MMIO 0xfe800000ull             /* of a q35's hole for PCI, below its I/O APIC */
enum { BAR0 = 0x10, REDHAT = 0x1b36, PVPANIC_PCI = 0x0011, PANICKED = 1 };
/* Intel 6300ESB (QEMU hw/watchdog/wdt_i6300esb.c, after Intel's data sheet 300641) */
enum {
	INTEL = 0x8086, ESB = 0x25ab, ESB_CONFIG = 0x60, ESB_LOCK = 0x68, ESB_TIMER1 = 0x00, ESB_TIMER2 = 0x04, ESB_RELOAD = 0x0c,
	ESB_COUNTS_MHZ = 1 << 2, ESB_NO_INTERRUPT = 3, ESB_ENABLE = 1 << 1, ESB_UNLOCK_1 = 0x80, ESB_UNLOCK_2 = 0x86, ESB_COUNTS = 500,
};

/* Found and placed by the one vCPU that prepares: those that reboot together would mix up address and data ports of PCI. */
static uint32_t watchdog_slot;
static uint64_t watchdog, pvpanic;

/* Of BAR 0. Not all firmware places it: qboot does not. */
static uint64_t bar_of(uint32_t slot)
{
	uint64_t gpa = pci_memory_bar(slot, 0);

	if (gpa)
		return gpa;
	gpa = FREE_MMIO + slot * PAGE_SIZE;
	pci_write(slot, BAR0, (uint32_t)gpa);
	pci_enable(slot);
	return gpa;
}

static bool prepare_watchdog(void)
{
	if (!pci_find(INTEL, ESB, &watchdog_slot))
		return false;
	watchdog = bar_of(watchdog_slot);
	pci_write16(watchdog_slot, ESB_CONFIG, ESB_COUNTS_MHZ | ESB_NO_INTERRUPT);
	return true;
}

static bool prepare_panic(void)
{
	uint32_t slot;

	if (!pci_find(REDHAT, PVPANIC_PCI, &slot))
		return false;
	pvpanic = bar_of(slot);
	return true;
}

bool arch_prepare_reboot(uint32_t way)
{
	switch (way) {
	case REBOOT_ACPI:
		return tables.reset_port;
	case REBOOT_WATCHDOG:
		return prepare_watchdog();
	case REBOOT_PANIC:
		return prepare_panic();
	case REBOOT_PSCI:
		return false;
	default:
		return way < REBOOT_WAYS;
	}
}

static void write_unlocked(uint32_t offset, uint32_t value)
{
	*(volatile uint16_t *)(watchdog + ESB_RELOAD) = ESB_UNLOCK_1;
	*(volatile uint16_t *)(watchdog + ESB_RELOAD) = ESB_UNLOCK_2;
	*(volatile uint32_t *)(watchdog + offset) = value;
}

/* Nobody feeds it: after both of its stages, a millisecond, it resets the machine. */
static void starve_watchdog(void)
{
	write_unlocked(ESB_TIMER1, ESB_COUNTS);
	write_unlocked(ESB_TIMER2, ESB_COUNTS);
	/* All who are here write the same address before it, so it is no matter whose they use. */
	pci_write8(watchdog_slot, ESB_LOCK, ESB_ENABLE);
}

static void tell_panic(void)
{
	*(volatile uint8_t *)pvpanic = PANICKED;
}

static void reset_by_acpi(void)
{
	outb(tables.reset_port, tables.reset_value);
}

void arch_reboot(uint32_t way)
{
	switch (way) {
	case REBOOT_RESET_PORT:
		outb(RESET_PORT, 0x02);
		outb(RESET_PORT, 0x06);
		break;
	case REBOOT_KEYBOARD:
		outb(KEYBOARD_COMMAND, PULSE_RESET);
		break;
	case REBOOT_ACPI:
		reset_by_acpi();
		break;
	case REBOOT_TRIPLE_FAULT:
		triple_fault();
		break;
	case REBOOT_WATCHDOG:
		starve_watchdog();
		break;
	case REBOOT_PANIC:
		tell_panic();
		break;
	case REBOOT_BARE:
		/* A boot to everybody but the hardware, of which nothing was reset. */
		arch_kexec();
		break;
	default:
		break;
	}
}
