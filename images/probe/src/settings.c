/* Words of the kernel command line: cvm=sev|es cbit=58 firmware=hold fault=a+b irq=on */
#include "confidential.h"
#include "irq.h"

struct settings cvm;

static const struct {
	const char *name;
	uint32_t bit;
} faults[] = {
	{ "gfw-vc-enables-interrupts", FAULT_VC_ENABLES_INTERRUPTS },
	{ "gfw-unaligned-undercount", FAULT_UNALIGNED_UNDERCOUNT },
	{ "gfw-sec-ghcb-unreported", FAULT_SEC_GHCB_UNREPORTED },
	{ "gfw-vc-drops-registers", FAULT_VC_DROPS_REGISTERS },
	{ "gfw-assert-without-feature", FAULT_ASSERT_WITHOUT_FEATURE },
	{ "gfw-variable-missing", FAULT_VARIABLE_MISSING },
	{ "gfw-flash0-shared", FAULT_FLASH0_SHARED },
	{ "guest-kexec-keeps-ranges", FAULT_KEXEC_KEEPS_RANGES },
	{ "guest-retry-ignored", FAULT_RETRY_IGNORED },
	{ "guest-reuses-unconverted", FAULT_REUSES_UNCONVERTED },
};

static bool ends(char c)
{
	return !c || c == ' ';
}

/* The length of *name* when *text* begins with it, else 0. */
static size_t prefix(const char *text, const char *name)
{
	size_t at = 0;

	for (; name[at]; at++)
		if (text[at] != name[at])
			return 0;
	return at;
}

static uint64_t number(const char *text)
{
	uint64_t value = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		value = value * 10 + (uint64_t)(*text - '0');
	return value;
}

static void read_fault(const char *text, const char **end)
{
	for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		size_t size = prefix(text, faults[i].name);

		if (size && (ends(text[size]) || text[size] == '+'))
			cvm.faults |= faults[i].bit;
	}
	while (!ends(*text) && *text != '+')
		text++;
	*end = text;
}

static void read_word(const char *word)
{
	if (prefix(word, "cvm=sev"))
		cvm.kind = CVM_SEV;
	if (prefix(word, "cvm=es"))
		cvm.kind = CVM_ES;
	if (prefix(word, "cbit="))
		cvm.cbit_mask = 1ull << (number(word + prefix(word, "cbit=")) & 63);
	if (prefix(word, "firmware=hold"))
		cvm.hold = true;
	if (prefix(word, "irq=on"))
		irq_is_wanted = true;
	if (!prefix(word, "fault="))
		return;
	word += prefix(word, "fault=");
	read_fault(word, &word);
	while (*word == '+')
		read_fault(word + 1, &word);
}

void settings_read(const char *line)
{
	while (line && *line) {
		read_word(line);
		while (!ends(*line))
			line++;
		while (*line == ' ')
			line++;
	}
	if (!cvm.cbit_mask)
		cvm.kind = CVM_NONE;
}
