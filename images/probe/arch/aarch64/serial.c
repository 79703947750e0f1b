/* The PL011 is the console; the command channel is a 16550 on PCI (QEMU's pci-serial), as virt has one UART of its own. */
#include "arm.h"

enum { PL011_DATA = 0x00, PL011_FLAGS = 0x18, PL011_LCR = 0x2c, PL011_CONTROL = 0x30, PL011_MASK = 0x38 };
enum { FLAG_FULL = 0x20, LCR_8BIT_FIFO = 0x70, CONTROL_ON = 0x301 };
enum { DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6 };
enum { LSR_DATA = 0x01, LSR_EMPTY = 0x20, IIR_NONE = 0x01, IER_RECEIVE = 0x01, FIFO_ON_TRIGGER_8 = 0x87, FIFO_BYTES = 16 };
enum { REDHAT = 0x1b36, PCI_SERIAL = 0x0002, PATIENCE = 1000000 };

static uint64_t port;
static uint32_t intid;

static void setup_channel(uint64_t config)
{
	port = pci_place_io(config, 0);
	write8(port + IER, 0);
	write8(port + LCR, 0x80);
	write8(port + DATA, 1); /* 115200 baud: QEMU's receive time-out is four characters of it */
	write8(port + IER, 0);
	write8(port + LCR, 0x03);
	write8(port + FCR, FIFO_ON_TRIGGER_8);
	write8(port + MCR, 0x0b);
	write8(port + IER, IER_RECEIVE);
}

void serial_init(void)
{
	uint64_t config;

	write32(machine.uart_gpa + PL011_MASK, 0);
	write32(machine.uart_gpa + PL011_LCR, LCR_8BIT_FIFO);
	write32(machine.uart_gpa + PL011_CONTROL, CONTROL_ON);
	config = pci_find(REDHAT, PCI_SERIAL, &intid);
	if (config)
		setup_channel(config);
	else
		console_line("no pci-serial for the command channel");
}

uint32_t serial_intid(void)
{
	return intid;
}

/* A line that nobody drains must not stop the guest. */
void arch_console_put(char c)
{
	for (unsigned tries = 0; tries < PATIENCE; tries++)
		if (!(read32(machine.uart_gpa + PL011_FLAGS) & FLAG_FULL)) {
			write32(machine.uart_gpa + PL011_DATA, (uint8_t)c);
			return;
		}
}

static bool wait_empty(void)
{
	for (unsigned tries = 0; tries < PATIENCE; tries++)
		if (read8(port + LSR) & LSR_EMPTY)
			return true;
	return false;
}

void arch_channel_put(const void *bytes, size_t size)
{
	const uint8_t *byte = bytes;

	for (size_t i = 0; port && i < size; i++) {
		if (i % FIFO_BYTES == 0 && !wait_empty())
			return;
		write8(port + DATA, byte[i]);
	}
}

static void receive(void)
{
	uint8_t status;

	while ((status = read8(port + LSR)) != 0xff && status & LSR_DATA)
		channel_received(read8(port + DATA));
}

void serial_interrupt(void)
{
	uint8_t why;

	do {
		receive();
		read8(port + MSR);
		why = read8(port + IIR);
	} while (why != 0xff && !(why & IIR_NONE) && (why & 0x0f) != 0x02);
}

void arch_channel_poll(void)
{
	if (port)
		receive();
}
