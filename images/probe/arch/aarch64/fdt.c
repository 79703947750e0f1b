#include "fdt.h"

#define FDT_MAGIC 0xd00dfeedu
enum { BEGIN_NODE = 1, END_NODE = 2, PROPERTY = 3, NOP = 4 };
enum { HEADER_STRUCTURE = 8, HEADER_STRINGS = 12 };

static uint32_t word(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static uint32_t length(const char *text)
{
	uint32_t size = 0;

	while (text[size])
		size++;
	return size;
}

static const uint8_t *aligned(const uint8_t *at)
{
	return (const uint8_t *)(((uint64_t)at + 3) & ~3ull);
}

static const uint8_t *after_property(const uint8_t *at)
{
	return aligned(at + 12 + word(at + 4));
}

static const uint8_t *skip_properties(const uint8_t *at)
{
	for (;;)
		if (word(at) == PROPERTY)
			at = after_property(at);
		else if (word(at) == NOP)
			at += 4;
		else
			return at;
}

bool fdt_begin(struct fdt_node *node, const void *tree)
{
	const uint8_t *bytes = tree;

	*node = (struct fdt_node){ .tree = bytes, .next = bytes + word(bytes + HEADER_STRUCTURE) };
	return word(bytes) == FDT_MAGIC;
}

static uint32_t cells_or(const struct fdt_node *node, const char *name, uint32_t otherwise)
{
	struct fdt_property property = fdt_get(node, name);

	return property.value ? word(property.value) : otherwise;
}

static void enter(struct fdt_node *node)
{
	node->name = (const char *)node->next + 4;
	node->properties = aligned(node->next + 4 + length(node->name) + 1);
	node->next = skip_properties(node->properties);
	if (++node->depth > FDT_MAX_DEPTH)
		return;
	node->address_cells[node->depth] = cells_or(node, "#address-cells", 2);
	node->size_cells[node->depth] = cells_or(node, "#size-cells", 1);
}

bool fdt_next(struct fdt_node *node)
{
	for (;; node->next += 4)
		switch (word(node->next)) {
		case BEGIN_NODE:
			enter(node);
			return true;
		case END_NODE:
			node->depth--;
			break;
		case NOP:
			break;
		default:
			return false;
		}
}

struct fdt_property fdt_get(const struct fdt_node *node, const char *name)
{
	const char *strings = (const char *)node->tree + word(node->tree + HEADER_STRINGS);

	for (const uint8_t *at = node->properties; word(at) == PROPERTY || word(at) == NOP;) {
		if (word(at) == NOP) {
			at += 4;
			continue;
		}
		if (same(strings + word(at + 8), name))
			return (struct fdt_property){ at + 12, word(at + 4) };
		at = after_property(at);
	}
	return (struct fdt_property){ 0 };
}

bool fdt_is(const struct fdt_node *node, const char *name, const char *text)
{
	struct fdt_property property = fdt_get(node, name);

	for (uint32_t at = 0; at < property.size; at += length((const char *)property.value + at) + 1)
		if (same((const char *)property.value + at, text))
			return true;
	return false;
}

uint64_t fdt_number(struct fdt_property property, unsigned cell, unsigned cells)
{
	uint64_t value = 0;

	if ((cell + cells) * 4 > property.size)
		return 0;
	for (unsigned i = cell; i < cell + cells; i++)
		value = value << 32 | word(property.value + 4 * i);
	return value;
}

bool fdt_reg(const struct fdt_node *node, unsigned index, uint64_t *address, uint64_t *size)
{
	struct fdt_property reg = fdt_get(node, "reg");
	unsigned parent = node->depth - 1;
	unsigned a = node->address_cells[parent], s = node->size_cells[parent], at = index * (a + s);

	if (!parent || parent > FDT_MAX_DEPTH || (at + a + s) * 4 > reg.size)
		return false;
	*address = fdt_number(reg, at, a);
	*size = fdt_number(reg, at + a, s);
	return true;
}
