/* 16550 UARTs: COM1 is the console, COM2 the command channel, COM3 the hypercalls of a protected guest. */
#include "x86.h"
#include "confidential.h"

enum { COM1 = 0x3f8, COM2 = 0x2f8, COM3 = 0x3e8, DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCRATCH = 7 };
enum { LSR_DATA = 0x01, LSR_EMPTY = 0x20, IIR_NONE = 0x01, IER_RECEIVE = 0x01, IER_EMPTY = 0x02, FIFO_ON_TRIGGER_8 = 0x87, FIFO_ON_TRIGGER_14 = 0xc7, FIFO_BYTES = 16 };
enum { PATIENCE = 1000000, SCRATCH_MARK = 0x5a };

static void setup(uint16_t port, uint8_t interrupts, uint8_t fifo)
{
	outb(port + IER, 0);
	outb(port + LCR, 0x80);
	outb(port + DATA, 1);   /* 115200 baud: QEMU's receive time-out is four characters of it */
	outb(port + IER, 0);
	outb(port + LCR, 0x03);
	outb(port + FCR, fifo);
	outb(port + MCR, 0x0b);
	outb(port + IER, interrupts);
}

void serial_init(void)
{
	setup(COM1, 0, FIFO_ON_TRIGGER_8);
	setup(COM2, IER_RECEIVE, FIFO_ON_TRIGGER_8);
}

/* A line that nobody drains must not stop the guest. */
static bool wait_empty(uint16_t port)
{
	for (unsigned tries = 0; tries < PATIENCE; tries++)
		if (inb(port + LSR) & LSR_EMPTY)
			return true;
	return false;
}

void arch_console_put(char c)
{
	if (wait_empty(COM1))
		outb(COM1 + DATA, (uint8_t)c);
}

static void put(uint16_t port, const uint8_t *byte, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (i % FIFO_BYTES == 0 && !wait_empty(port))
			return;
		outb(port + DATA, byte[i]);
	}
}

void arch_channel_put(const void *bytes, size_t size)
{
	put(COM2, bytes, size);
}

/* Polled: a hypercall waits for its answer, with interrupts on or off. QEMU hands over a trigger's worth at a time. */
bool arch_hypercall_open(void)
{
	setup(COM3, 0, FIFO_ON_TRIGGER_14);
	/* Where nothing is, reads give all ones. */
	outb(COM3 + SCRATCH, SCRATCH_MARK);
	return inb(COM3 + SCRATCH) == SCRATCH_MARK;
}

void arch_hypercall_put(const void *bytes, size_t size)
{
	put(COM3, bytes, size);
}

int arch_hypercall_get(void)
{
	uint8_t status = inb(COM3 + LSR);

	return status != 0xff && status & LSR_DATA ? inb(COM3 + DATA) : -1;
}

static void receive(void)
{
	uint8_t status;

	while ((status = inb(COM2 + LSR)) != 0xff && status & LSR_DATA)
		channel_received(inb(COM2 + DATA));
}

/* Edge-triggered: leave only when the UART has withdrawn its request. */
void serial_interrupt(void)
{
	uint8_t why;

	do {
		receive();
		inb(COM2 + MSR);
		why = inb(COM2 + IIR);
	} while (why != 0xff && !(why & IIR_NONE) && (why & 0x0f) != 0x02);
}

void arch_channel_poll(void)
{
	receive();
}

/* An empty transmitter that may interrupt holds its line up; off, it lets go. */
void serial_line(uint16_t port, bool up)
{
	if (up)
		wait_empty(port);
	outb(port + IER, up ? IER_EMPTY : 0);
	if (!up)
		inb(port + IIR);
}

void serial_line_init(uint16_t port)
{
	if (port == COM1)
		serial_line(port, false);
	else
		setup(port, 0, FIFO_ON_TRIGGER_8);
}
