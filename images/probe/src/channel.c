/* Frames of the command protocol, see PROTOCOL.md: receive ring, resynchronisation, idempotent resend. */
#include "probe.h"

#define FRAME_MAGIC 0x504d5643u  /* "CVMP" */
enum { FRAME_VERSION = 1, RING_BYTES = 8192, MAX_PAYLOAD = 2048, PIECE = 16 };
enum { KIND_REQUEST = 1, KIND_REPLY = 2, KIND_EVENT = 3, KIND_ERROR = 4 };

struct header {
	uint32_t magic;
	uint8_t version, kind;
	uint16_t code;
	uint32_t seq, length, body_crc, header_crc;
};

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_in, ring_out;

static uint8_t input[sizeof(struct header) + MAX_PAYLOAD];
static uint32_t input_size;

static struct header last;              /* the request answered last, or being executed */
static uint32_t last_status;
static bool executing, is_old;                    /* is_old: of the boot or kernel before this one */
static struct reply reply;

void channel_received(uint8_t byte)
{
	if (ring_in - ring_out < RING_BYTES)
		ring[ring_in++ % RING_BYTES] = byte;
}

bool channel_pending(void)
{
	return ring_in != ring_out;
}

void reply_put(struct reply *to, const void *bytes, uint32_t size)
{
	if (size > sizeof to->bytes - to->size)
		return;
	memcpy(to->bytes + to->size, bytes, size);
	to->size += size;
}

void reply_u32(struct reply *to, uint32_t value)
{
	reply_put(to, &value, sizeof value);
}

void reply_u64(struct reply *to, uint64_t value)
{
	reply_put(to, &value, sizeof value);
}

static volatile uint32_t unsent;

static void put(const void *bytes, uint32_t size)
{
	const uint8_t *byte = bytes;

	for (uint32_t at = 0; at < size; at += PIECE) {
		uint32_t piece = size - at < PIECE ? size - at : PIECE;

		arch_channel_put(byte + at, piece);
		unsent -= piece;
	}
}

/* The host waits for the rest of a frame that a fault has cut short; it would take the next frame for that rest. */
void channel_abort(void)
{
	static const uint8_t zero[PIECE];

	for (uint32_t left = unsent; left; left -= left < PIECE ? left : PIECE)
		arch_channel_put(zero, PIECE);
}

static void send(uint8_t kind, uint16_t code, uint32_t seq, const void *payload, uint32_t size)
{
	struct header header = { FRAME_MAGIC, FRAME_VERSION, kind, code, seq, size, crc32(payload, size), 0 };

	header.header_crc = crc32(&header, sizeof header - sizeof header.header_crc);
	unsent = sizeof header + size;
	put(&header, sizeof header);
	put(payload, size);
}

void channel_event(uint16_t code, const void *payload, uint32_t size)
{
	send(KIND_EVENT, code, 0, payload, size);
}

static void answer(void)
{
	if (last_status)
		send(KIND_ERROR, last.code, last.seq, &last_status, sizeof last_status);
	else
		send(KIND_REPLY, last.code, last.seq, reply.bytes, reply.size);
}

static bool is_resend(const struct header *header)
{
	return header->seq == last.seq && header->code == last.code && header->body_crc == last.body_crc &&
	       header->length == last.length;
}

static void handle(const struct header *header, const uint8_t *payload)
{
	static const uint32_t busy = 1;
	static uint8_t kept[MAX_PAYLOAD];

	if (header->kind != KIND_REQUEST)
		return;
	if (executing) {
		if (!is_resend(header))
			send(KIND_ERROR, header->code, header->seq, &busy, sizeof busy);
		return;
	}
	if (!is_resend(header)) {
		last = *header;
		is_old = false;
		reply.size = 0;
		memcpy(kept, payload, header->length);
		executing = true;
		last_status = command_execute(header->code, kept, last.length, &reply);
		executing = false;
	}
	answer();
	if (!last_status && !is_old)
		command_finish(last.code, kept, last.length);
}

static void drop(uint32_t size)
{
	for (uint32_t i = size; i < input_size; i++)
		input[i - size] = input[i];
	input_size -= size;
}

static bool header_is_good(const struct header *header)
{
	return header->magic == FRAME_MAGIC && header->version == FRAME_VERSION && header->length <= MAX_PAYLOAD &&
	       header->header_crc == crc32(header, sizeof *header - sizeof header->header_crc);
}

/* One frame or one byte of garbage; false when more bytes are needed. */
static bool take(void)
{
	static uint8_t payload[MAX_PAYLOAD];
	struct header header;

	if (input_size < sizeof header)
		return false;
	memcpy(&header, input, sizeof header);
	if (!header_is_good(&header))
		return drop(1), true;
	if (input_size < sizeof header + header.length)
		return false;
	memcpy(payload, input + sizeof header, header.length);
	if (crc32(payload, header.length) != header.body_crc)
		return drop(1), true;
	drop(sizeof header + header.length);
	handle(&header, payload);
	return true;
}

static void pull(void)
{
	while (channel_pending() && input_size < sizeof input) {
		input[input_size++] = ring[ring_out % RING_BYTES];
		ring_out++;
	}
}

void channel_poll(void)
{
	do {
		pull();
		while (take())
			pull();
	} while (channel_pending());
}

void channel_poll_busy(void)
{
	channel_poll();
}

/* The request that ended a boot or a kernel may be repeated to the next one, and must not end that too. */
void channel_keep(void)
{
	_Static_assert(sizeof last == sizeof boot_page.last_request, "probe.h");
	memcpy(boot_page.last_request, &last, sizeof last);
}

void channel_restore(void)
{
	memcpy(&last, boot_page.last_request, sizeof last);
	is_old = true;
}
