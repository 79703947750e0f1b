/* Devices on bus 0 by configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3). Firmware has placed their BARs. */
#include "x86.h"

enum { CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc, SLOTS = 32, BAR_MEMORY_64 = 0x4 };
enum { STATUS_COMMAND = 0x04, CAPABILITIES = 0x34, BAR0 = 0x10, COMMAND_ALL = 0x7, HAS_CAPABILITIES = 1u << 20 };

static void select(uint32_t slot, uint32_t offset)
{
	outl(CONFIG_ADDRESS, 0x80000000u | slot << 11 | (offset & 0xfc));
}

uint32_t pci_read(uint32_t slot, uint32_t offset)
{
	select(slot, offset);
	return inl(CONFIG_DATA);
}

void pci_write(uint32_t slot, uint32_t offset, uint32_t value)
{
	select(slot, offset);
	outl(CONFIG_DATA, value);
}

void pci_write8(uint32_t slot, uint32_t offset, uint8_t value)
{
	select(slot, offset);
	outb((uint16_t)(CONFIG_DATA + offset % 4), value);
}

void pci_write16(uint32_t slot, uint32_t offset, uint16_t value)
{
	select(slot, offset);
	outw((uint16_t)(CONFIG_DATA + offset % 4), value);
}

bool pci_find(uint16_t vendor, uint16_t device, uint32_t *slot)
{
	for (*slot = 0; *slot < SLOTS; ++*slot)
		if (pci_read(*slot, 0) == ((uint32_t)device << 16 | vendor))
			return true;
	return false;
}

/* The gpa of a memory BAR, 0 when nobody placed it below 4 GiB, where the probe's tables reach. */
uint64_t pci_memory_bar(uint32_t slot, unsigned bar)
{
	uint32_t low = pci_read(slot, BAR0 + 4 * bar);

	if (low & BAR_MEMORY_64 && pci_read(slot, BAR0 + 4 * bar + 4))
		return 0;
	return low & ~0xfu;
}

uint16_t pci_io_bar(uint32_t slot, unsigned bar)
{
	return (uint16_t)(pci_read(slot, BAR0 + 4 * bar) & 0xfffc);
}

void pci_enable(uint32_t slot)
{
	pci_write(slot, STATUS_COMMAND, (pci_read(slot, STATUS_COMMAND) & 0xffff) | COMMAND_ALL);
}

/* Offset of a capability, 0 when the device has none of that id. */
uint32_t pci_capability(uint32_t slot, uint8_t id)
{
	uint32_t at = pci_read(slot, STATUS_COMMAND) & HAS_CAPABILITIES ? pci_read(slot, CAPABILITIES) & 0xfc : 0;

	for (unsigned hops = 0; at && hops < 64; hops++) {
		uint32_t head = pci_read(slot, at);

		if ((head & 0xff) == id)
			return at;
		at = head >> 8 & 0xfc;
	}
	return 0;
}
