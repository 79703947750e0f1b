/* The ways in which QEMU's virt machine is rebooted: PSCI, and two devices on PCI that no firmware has placed. */
#include "arm.h"

enum { REDHAT = 0x1b36, PVPANIC_PCI = 0x0011, PANICKED = 1 };
/* Intel 6300ESB (QEMU hw/watchdog/wdt_i6300esb.c, after Intel's data sheet 300641) */
enum {
	INTEL = 0x8086, ESB = 0x25ab, ESB_CONFIG = 0x60, ESB_LOCK = 0x68, ESB_TIMER1 = 0x00, ESB_TIMER2 = 0x04, ESB_RELOAD = 0x0c,
	ESB_COUNTS_MHZ = 1 << 2, ESB_NO_INTERRUPT = 3, ESB_ENABLE = 1 << 1, ESB_UNLOCK_1 = 0x80, ESB_UNLOCK_2 = 0x86, ESB_COUNTS = 500,
};

static uint64_t find(uint16_t vendor, uint16_t device)
{
	uint32_t intid;

	return pci_find(vendor, device, &intid);
}

bool arch_can_reboot(uint32_t way)
{
	switch (way) {
	case REBOOT_PSCI:
		return true;
	case REBOOT_WATCHDOG:
		return find(INTEL, ESB);
	case REBOOT_PANIC:
		return find(REDHAT, PVPANIC_PCI);
	default:
		return false;
	}
}

static void write_unlocked(uint64_t bar, uint32_t offset, uint32_t value)
{
	write16(bar + ESB_RELOAD, ESB_UNLOCK_1);
	write16(bar + ESB_RELOAD, ESB_UNLOCK_2);
	write32(bar + offset, value);
}

/* Nobody feeds it: after both of its stages, a millisecond, it resets the machine. */
static void starve_watchdog(void)
{
	uint64_t config = find(INTEL, ESB), bar = pci_place_memory(config, 0);

	write16(config + ESB_CONFIG, ESB_COUNTS_MHZ | ESB_NO_INTERRUPT);
	write_unlocked(bar, ESB_TIMER1, ESB_COUNTS);
	write_unlocked(bar, ESB_TIMER2, ESB_COUNTS);
	write8(config + ESB_LOCK, ESB_ENABLE);
}

void arch_reboot(uint32_t way)
{
	if (way == REBOOT_PSCI)
		psci_reset();
	if (way == REBOOT_WATCHDOG)
		starve_watchdog();
	if (way == REBOOT_PANIC)
		write8(pci_place_memory(find(REDHAT, PVPANIC_PCI), 0), PANICKED);
}
