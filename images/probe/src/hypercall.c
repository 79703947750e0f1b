/* The hypercall channel: one exchange at a time for the whole guest. A reply that does not come is asked for again,
 * because the host that took the request may not be the one that we run on now. */
#include "confidential.h"

#define REQUEST_MAGIC 0x43485643u  /* "CVHC" */
#define REPLY_MAGIC 0x52485643u    /* "CVHR" */
enum { VERSION = 1, FLAG_RESEND = 1, RESENDS_A_SECOND = 20, RESENDS_TO_COMPLAIN = 40 };

struct request {
	uint32_t magic;
	uint8_t version, vcpu, op, flags;
	uint32_t seq, boot_id;
	struct registers registers;
	uint64_t reserved0;
	uint32_t reserved1, crc;
} __attribute__((packed));
struct reply_frame {
	uint32_t magic, seq;
	uint64_t value, extra;
	uint32_t flags, crc;
} __attribute__((packed));
_Static_assert(sizeof(struct request) == 64, "PROTOCOL.md");
_Static_assert(sizeof(struct reply_frame) == 32, "PROTOCOL.md");

static uint32_t busy, sleepers;
static uint64_t resend_ticks;
static uint8_t input[sizeof(struct reply_frame)];
static uint32_t input_size;

bool hypercall_init(void)
{
	resend_ticks = arch_ticks_per_s() / RESENDS_A_SECOND;
	return arch_hypercall_open();
}

static void send(struct request *request)
{
	request->crc = crc32(request, sizeof *request - sizeof request->crc);
	arch_hypercall_put(request, sizeof *request);
}

static void drop(uint32_t size)
{
	for (uint32_t i = size; i < input_size; i++)
		input[i - size] = input[i];
	input_size -= size;
}

/* Takes what has come in; true when it was the reply to *seq*. */
static bool take(uint32_t seq, struct answer *answer)
{
	struct reply_frame frame;
	int byte;

	while ((byte = arch_hypercall_get()) >= 0) {
		input[input_size++] = (uint8_t)byte;
		if (input_size < sizeof input)
			continue;
		memcpy(&frame, input, sizeof frame);
		if (frame.magic != REPLY_MAGIC || frame.crc != crc32(&frame, sizeof frame - sizeof frame.crc)) {
			drop(1);
			continue;
		}
		input_size = 0;
		if (frame.seq != seq)
			continue;
		*answer = (struct answer){ frame.value, frame.extra, frame.flags };
		return true;
	}
	return false;
}

static bool wait(uint32_t seq, struct answer *answer)
{
	uint64_t start = arch_ticks();

	while (arch_ticks() - start < resend_ticks) {
		if (take(seq, answer))
			return true;
		arch_relax();
	}
	return false;
}

static bool try_lock(void)
{
	return !__atomic_exchange_n(&busy, 1, __ATOMIC_ACQUIRE);
}

/* Who waits for its turn sleeps if it may: vCPUs that spin take the host's processors from the one that is served. */
static uint64_t lock(struct cpu *cpu)
{
	for (;;) {
		uint64_t flags = arch_irq_save();

		if (try_lock())
			return flags;
		if (!arch_irq_was_on(flags)) {
			arch_relax();
			continue;
		}
		sleepers_add(&sleepers, cpu->index);
		if (try_lock()) {
			sleepers_remove(&sleepers, cpu->index);
			return flags;
		}
		arch_wait_for_irq();
	}
}

static void unlock(uint64_t flags)
{
	__atomic_store_n(&busy, 0, __ATOMIC_RELEASE);
	sleepers_wake(&sleepers, 1);
	arch_irq_restore(flags);
}

void hypercall(struct cpu *cpu, uint8_t op, const struct registers *registers, struct answer *answer)
{
	struct request request = { .magic = REQUEST_MAGIC, .version = VERSION, .op = op };
	uint64_t flags = lock(cpu);

	request.vcpu = (uint8_t)cpu->index;
	request.seq = (uint32_t)++boot_page.hypercalls;
	request.boot_id = (uint32_t)boot_id;
	request.registers = *registers;
	cvm_page->cpu[cpu->index].hypercalls++;
	for (unsigned tries = 1;; tries++) {
		send(&request);
		if (wait(request.seq, answer))
			break;
		request.flags = FLAG_RESEND;
		if (tries == RESENDS_TO_COMPLAIN)
			console_line("no host answers hypercall %u", (uint64_t)op);
	}
	unlock(flags);
}
