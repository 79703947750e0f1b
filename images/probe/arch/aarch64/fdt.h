/* A reader of flattened device trees (Devicetree Specification 0.4, chapter 5). */
#ifndef PROBE_FDT_H
#define PROBE_FDT_H

#include "probe.h"

enum { FDT_MAX_DEPTH = 8 };

struct fdt_property {
	const uint8_t *value;   /* null: the node has none of that name */
	uint32_t size;
};

/* A node, and where the walk stands. *depth* 0 is before the root. */
struct fdt_node {
	const uint8_t *tree, *properties, *next;
	const char *name;
	unsigned depth;
	uint32_t address_cells[FDT_MAX_DEPTH + 1], size_cells[FDT_MAX_DEPTH + 1];  /* what the node at a depth says to its children */
};

bool fdt_begin(struct fdt_node *node, const void *tree);        /* false: there is no tree */
bool fdt_next(struct fdt_node *node);                           /* depth first; false at the end */
struct fdt_property fdt_get(const struct fdt_node *node, const char *name);
bool fdt_is(const struct fdt_node *node, const char *name, const char *text);  /* one of the property's strings is *text* */
uint64_t fdt_number(struct fdt_property property, unsigned cell, unsigned cells);      /* 0 beyond the end */
bool fdt_reg(const struct fdt_node *node, unsigned index, uint64_t *address, uint64_t *size);

#endif
