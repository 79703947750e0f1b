/* The interrupt translation service: its tables and its queue of commands. */
#include "its.h"

enum { GITS_CTLR = 0x0, GITS_TYPER = 0x8, GITS_CBASER = 0x80, GITS_CWRITER = 0x88, GITS_CREADR = 0x90, GITS_BASER = 0x100 };
enum { GITS_TRANSLATER = 0x10040, CTLR_ENABLED = 0x1, BASERS = 8, TYPE_DEVICES = 1, TYPE_VPES = 2, TYPE_COLLECTIONS = 4 };
enum { CMD_MOVI = 0x01, CMD_INT = 0x03, CMD_CLEAR = 0x04, CMD_SYNC = 0x05, CMD_MAPD = 0x08, CMD_MAPC = 0x09, CMD_MAPTI = 0x0a,
	CMD_INV = 0x0c, CMD_INVALL = 0x0d, CMD_MOVALL = 0x0e, CMD_DISCARD = 0x0f };
enum { CMD_VMOVP = 0x22, CMD_VMAPP = 0x29, CMD_VMAPTI = 0x2a };
enum { COMMAND_BYTES = 32, QUEUE_BYTES = 4096, TABLES_AT = 0x1000, ITT_BYTES = 1024 };
#define VALID (1ull << 63)
#define INNER_SHAREABLE_WRITE_BACK (1ull << 10 | 7ull << 59)

/* All in block 0, behind its pending table: the queue, then a page for each kind of table, then the ITTs. */
static uint64_t queue, tables, itts;
static uint32_t known_device[ITS_DEVICES], devices;
static bool is_ready;

static uint64_t gits(uint32_t offset)
{
	return machine.its_gpa + offset;
}

static void place_tables(void)
{
	uint64_t page = tables;

	for (unsigned i = 0; i < BASERS; i++) {
		uint64_t at = gits(GITS_BASER + 8 * i), type = read64(at) >> 56 & 7;

		if (type != TYPE_DEVICES && type != TYPE_COLLECTIONS && type != TYPE_VPES)
			continue;
		write64(at, VALID | INNER_SHAREABLE_WRITE_BACK | page); /* one page of 4 KiB, flat */
		page += PAGE_SIZE;
	}
}

void its_init(void)
{
	if (is_ready)
		return;
	queue = lpi_block(0) + TABLES_AT;
	tables = queue + QUEUE_BYTES;
	itts = tables + 3 * PAGE_SIZE;
	write32(gits(GITS_CTLR), 0);
	place_tables();
	write64(gits(GITS_CBASER), VALID | INNER_SHAREABLE_WRITE_BACK | queue);
	write64(gits(GITS_CWRITER), 0);
	barrier();
	is_ready = true;
	its_switch(true);
	for (unsigned i = 0; i < machine.cpus; i++)
		its_map_collection(i, i);
}

void its_switch(bool on)
{
	write32(gits(GITS_CTLR), on ? CTLR_ENABLED : 0);
	barrier();
}

bool its_is_on(void)
{
	return read32(gits(GITS_CTLR)) & CTLR_ENABLED;
}

/* Any vCPU may, no interrupt handler does. */
static void command(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	static uint32_t lock;
	uint64_t at, *word;

	while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
		arch_relax();
	at = read64(gits(GITS_CWRITER)) & (QUEUE_BYTES - 1);
	word = (uint64_t *)(queue + at);
	word[0] = a, word[1] = b, word[2] = c, word[3] = d;
	barrier();
	at = (at + COMMAND_BYTES) % QUEUE_BYTES;
	write64(gits(GITS_CWRITER), at);
	while (its_is_on() && (read64(gits(GITS_CREADR)) & (QUEUE_BYTES - 1)) != at)
		arch_relax();
	__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

/* GITS_TYPER.PTA is 0 under QEMU: a redistributor is named by GICR_TYPER.Processor_Number; else by its address. */
static uint64_t target(unsigned cpu)
{
	bool by_address = read64(gits(GITS_TYPER)) & 1u << 19;
	uint64_t gicr = gic_redistributor(cpu);

	return by_address ? gicr : (read64(gicr + 8) >> 8 & 0xffff) << 16;
}

static unsigned slot_of(uint32_t device)
{
	unsigned slot = 0;

	while (slot < devices && known_device[slot] != device)
		slot++;
	if (slot == devices && devices < ITS_DEVICES)
		known_device[devices++] = device;
	return slot % ITS_DEVICES;
}

void its_map_device(uint32_t device)
{
	uint64_t itt = itts + slot_of(device) * ITT_BYTES;

	command((uint64_t)device << 32 | CMD_MAPD, EVENT_BITS - 1, VALID | itt, 0);
}

void its_map_collection(uint32_t collection, unsigned cpu)
{
	command(CMD_MAPC, 0, VALID | target(cpu) | collection, 0);
	its_sync(cpu);
}

void its_map(uint32_t device, uint32_t event, uint32_t intid, uint32_t collection)
{
	command((uint64_t)device << 32 | CMD_MAPTI, (uint64_t)intid << 32 | event, collection, 0);
}

void its_move(uint32_t device, uint32_t event, uint32_t collection)
{
	command((uint64_t)device << 32 | CMD_MOVI, event, collection, 0);
}

void its_move_all(unsigned from, unsigned to)
{
	command(CMD_MOVALL, 0, target(from), target(to));
}

void its_raise(uint32_t device, uint32_t event)
{
	command((uint64_t)device << 32 | CMD_INT, event, 0, 0);
}

void its_clear(uint32_t device, uint32_t event)
{
	command((uint64_t)device << 32 | CMD_CLEAR, event, 0, 0);
}

void its_discard(uint32_t device, uint32_t event)
{
	command((uint64_t)device << 32 | CMD_DISCARD, event, 0, 0);
}

void its_reread(uint32_t device, uint32_t event)
{
	command((uint64_t)device << 32 | CMD_INV, event, 0, 0);
}

void its_reread_all(uint32_t collection)
{
	command(CMD_INVALL, 0, collection, 0);
}

void its_sync(unsigned cpu)
{
	command(CMD_SYNC, 0, target(cpu), 0);
}

void its_map_vpe(unsigned cpu, uint64_t pending_table)
{
	command(CMD_VMAPP, (uint64_t)VPE_ID << 32, VALID | target(cpu), pending_table | (ID_BITS - 1));
}

void its_map_virtual(uint32_t device, uint32_t event, uint32_t intid, uint32_t doorbell)
{
	command((uint64_t)device << 32 | CMD_VMAPTI, (uint64_t)VPE_ID << 32 | event, (uint64_t)doorbell << 32 | intid, 0);
}

void its_move_vpe(unsigned cpu)
{
	command(CMD_VMOVP, (uint64_t)VPE_ID << 32, target(cpu), 0);
}

uint64_t its_translater(void)
{
	return gits(GITS_TRANSLATER);
}
