/* Instructions that would raise #VC, in the software platform written as "int $29" with the exit code in r11. */
#include "x86.h"
#include "confidential.h"
#include "exits.h"

struct vc_registers {
	uint64_t rax, rbx, rcx, rdx, rdi, rsi;
};

static void raise(uint64_t code, struct vc_registers *on)
{
	register uint64_t r11 __asm__("r11") = code;

	__asm__ volatile("int $29"
			 : "+a"(on->rax), "+b"(on->rbx), "+c"(on->rcx), "+d"(on->rdx), "+D"(on->rdi), "+S"(on->rsi), "+r"(r11)
			 :
			 : "memory", "cc");
}

uint64_t arch_vc_vmmcall(struct cpu *cpu, const struct registers *registers, struct answer *answer)
{
	struct vc_registers on = { .rax = registers->rax, .rbx = registers->rbx, .rcx = registers->rcx, .rdx = registers->rdx };

	(void)cpu;
	raise(EXIT_VMMCALL, &on);
	*answer = (struct answer){ .value = on.rax, .extra = on.rcx, .flags = (uint32_t)on.rdx };
	return on.rax;
}

void arch_vc_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	struct vc_registers on = { .rax = (uint32_t)value, .rcx = msr, .rdx = value >> 32 };

	(void)cpu;
	raise(EXIT_MSR, &on);
}

bool arch_vc_read_mmio(struct cpu *cpu, uint64_t gpa, uint32_t size, uint64_t *value)
{
	struct vc_registers on = { .rdi = gpa, .rsi = size };
	uint64_t expected = size == 8 ? mix64(gpa) : mix64(gpa) & ((1ull << 8 * size) - 1);

	(void)cpu;
	raise(EXIT_MMIO_READ, &on);
	*value = on.rax;
	return on.rax == expected;
}

void arch_vc_reset_hold(struct cpu *cpu)
{
	struct vc_registers on = { 0 };

	(void)cpu;
	raise(EXIT_AP_RESET_HOLD, &on);
}
