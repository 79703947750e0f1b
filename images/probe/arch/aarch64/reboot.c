/* The ways in which QEMU's virt machine is rebooted: PSCI, and two devices on PCI that no firmware has placed. */
#include "arm.h"

enum { REDHAT = 0x1b36, PVPANIC_PCI = 0x0011, PANICKED = 1 };
/* Intel 6300ESB (QEMU hw/watchdog/wdt_i6300esb.c, after Intel's data sheet 300641) */
enum {
	INTEL = 0x8086, ESB = 0x25ab, ESB_CONFIG = 0x60, ESB_LOCK = 0x68, ESB_TIMER1 = 0x00, ESB_TIMER2 = 0x04, ESB_RELOAD = 0x0c,
	ESB_COUNTS_MHZ = 1 << 2, ESB_NO_INTERRUPT = 3, ESB_ENABLE = 1 << 1, ESB_UNLOCK_1 = 0x80, ESB_UNLOCK_2 = 0x86, ESB_COUNTS = 500,
};

/* Found and placed by the one vCPU that prepares: those that reboot together must not lay out PCI together. */
static uint64_t watchdog_config, watchdog, pvpanic;

static uint64_t find(uint16_t vendor, uint16_t device)
{
	uint32_t intid;

	return pci_find(vendor, device, &intid);
}

static bool prepare_watchdog(void)
{
	watchdog_config = find(INTEL, ESB);
	if (!watchdog_config)
		return false;
	watchdog = pci_place_memory(watchdog_config, 0);
	write16(watchdog_config + ESB_CONFIG, ESB_COUNTS_MHZ | ESB_NO_INTERRUPT);
	return watchdog;
}

static bool prepare_panic(void)
{
	uint64_t config = find(REDHAT, PVPANIC_PCI);

	pvpanic = config ? pci_place_memory(config, 0) : 0;
	return pvpanic;
}

bool arch_prepare_reboot(uint32_t way)
{
	switch (way) {
	case REBOOT_PSCI:
		return true;
	case REBOOT_WATCHDOG:
		return prepare_watchdog();
	case REBOOT_PANIC:
		return prepare_panic();
	default:
		return false;
	}
}

static void write_unlocked(uint32_t offset, uint32_t value)
{
	write16(watchdog + ESB_RELOAD, ESB_UNLOCK_1);
	write16(watchdog + ESB_RELOAD, ESB_UNLOCK_2);
	write32(watchdog + offset, value);
}

/* Nobody feeds it: after both of its stages, a millisecond, it resets the machine. */
static void starve_watchdog(void)
{
	write_unlocked(ESB_TIMER1, ESB_COUNTS);
	write_unlocked(ESB_TIMER2, ESB_COUNTS);
	write8(watchdog_config + ESB_LOCK, ESB_ENABLE);
}

void arch_reboot(uint32_t way)
{
	if (way == REBOOT_PSCI)
		psci_reset();
	if (way == REBOOT_WATCHDOG)
		starve_watchdog();
	if (way == REBOOT_PANIC)
		write8(pvpanic, PANICKED);
}
