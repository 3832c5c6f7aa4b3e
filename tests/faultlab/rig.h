/* rig.h: a producer "p" with one ring, its reliable consumer "c", and the check that everything
 * recovers from a state that a kill left behind. */
#ifndef FAULTLAB_RIG_H
#define FAULTLAB_RIG_H

#include "lab.h"
#include "operations.h"

#define RIG_RECORD_BYTES_MAX 4096u
#define RIG_IMAGE_BYTES      65536u
/* Of the made-up file in which a position lies that is no member's. */
#define RIG_CONSUMER_INSTANCE 88u

struct rig_spec {
  uint32_t record_size;
  uint32_t policy;
  uint64_t depth;
};
extern struct rig_spec rig_spec;

struct rig_producer {
  struct bus_member *member;
  const struct bus_entry *entry;
  void *ring;
  struct bus_producer producer;
  struct bus_backlink backlink;
};

struct rig_consumer {
  struct bus_member *member;
  struct bus_position *position;
  struct bus_subscription subscription;
};

/* bus_member_new with the rig's configuration; BUS_OK or its error. */
int rig_producer_new(struct bus_member **member);
int rig_consumer_new(struct bus_member **member);

/* A whole side: member, ring, back link or subscription (attached when the other side is there);
 * any refusal fails the experiment. */
void rig_producer_open(struct rig_producer *side);
void rig_consumer_open(struct rig_consumer *side);
/* Both sides, and joined: the producer goes by the consumer's file, the consumer reads. */
void rig_pair_open(struct rig_producer *p, struct rig_consumer *c);
/* Housekeeping of both sides until they are joined, in the order in which it must happen. */
void rig_join(struct rig_producer *p, struct rig_consumer *c);
void rig_producer_close(struct rig_producer *side);
void rig_consumer_close(struct rig_consumer *side);
/* Unmaps and unlocks without a last word, as a kill does. */
void rig_producer_abandon(struct rig_producer *side);
void rig_consumer_abandon(struct rig_consumer *side);

/* Reads one record of the consumer, checks and releases it: true when there was one. */
bool rig_consume(struct bus_consumer *consumer, uint32_t record_size);

/* What the recovery may find. Positions count from the start of the ring. */
struct rig_truth {
  uint64_t begun;     /* the producer may have committed so many, */
  uint64_t committed; /* and has committed at least so many */
  uint64_t read;      /* the consumer has read so many */
};
struct rig_truth rig_truth_now(void);

/* Recovers producer, consumer and an observer from private copies of a ring and a position and
 * checks every invariant (README.md), then runs three laps. `author` wrote the records so far. */
void rig_check_images(const struct bus_entry *entry, uint64_t instance, const void *ring,
                      const void *position, struct rig_truth truth);

/* The same with the real files in lab_directory: two new members take them over. `lag_max`: how
 * many records the consumer may see again. */
void rig_check_restart(struct rig_truth truth, uint64_t lag_max);

/* publish_every of a ring of this depth. */
static inline uint64_t rig_lag_max(uint64_t depth)
{
  return depth / 4 < 64 ? depth / 4 : 64;
}

#endif
