/* Private to arch/aarch64: sources of counted interrupts, by what makes them. irq_arm.c tells them apart. */
#ifndef PROBE_IRQ_SOURCES_H
#define PROBE_IRQ_SOURCES_H
#include "irq.h"

/* Kinds of this architecture. The line of an ITS_* source is device << 8 | event of a device that exists in the ITS alone. */
enum { IRQ_VLPI_DOORBELL = IRQ_VLPI, IRQ_ITS_LPI, IRQ_ITS_VLPI };
enum { HOLD_VPE = IRQ_HOLD_ARCH + 1 };    /* the vPE is not scheduled */

/* irq_lines.c: SGIs, PPIs, SPIs */
uint32_t line_program(struct irq_source *source);
void line_trigger(struct irq_source *source);
uint8_t line_before_log(struct irq_source *source);
void line_mask(const struct irq_source *source, bool masked);
bool line_is_pending(const struct irq_source *source);

/* irq_lpi.c: LPIs and VLPIs, of the host's device or of devices that only the ITS knows */
void lpi_open(uint64_t config);         /* configuration space of the host's device */
uint32_t lpi_program(struct irq_source *source);
void lpi_trigger(const struct irq_source *source);
void lpi_mask(const struct irq_source *source, bool masked);
bool lpi_is_pending(const struct irq_source *source);
bool lpi_is_doorbell(uint32_t intid);   /* of the vPE */
uint32_t lpi_command(uint16_t code, const uint8_t *payload, uint32_t size, struct reply *reply);
bool is_virtual(const struct irq_source *source);
#endif
