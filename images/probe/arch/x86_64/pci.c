/* Devices on bus 0 by configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2). Firmware has placed their BARs. */
#include "x86.h"

enum { CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc, ID = 0x00, BAR0 = 0x10, SLOTS = 32 };
#define ENABLE 0x80000000u

static void select(uint32_t slot, uint32_t offset)
{
	outl(CONFIG_ADDRESS, ENABLE | slot << 11 | (offset & ~3u));
}

static uint32_t read(uint32_t slot, uint32_t offset)
{
	select(slot, offset);
	return inl(CONFIG_DATA);
}

uint32_t pci_find(uint16_t vendor, uint16_t device)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		if (read(slot, ID) == ((uint32_t)device << 16 | vendor))
			return slot;
	return PCI_NONE;
}

uint64_t pci_bar0(uint32_t slot)
{
	return read(slot, BAR0) & ~0xfu;
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
