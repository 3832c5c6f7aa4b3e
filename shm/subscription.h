/* subscription.h: a reader's tie to one ring of another member, kept by name.
 *
 * Members start in any order, die and come back. A subscription attaches when the producer's file
 * appears, goes on over the producer's restart (same file: nothing happens at all), and when the
 * file was replaced drops the old map and joins the new one. All of it in
 * bus_subscription_maintain, off the hot path; between two calls of it the consumer or observer
 * inside may be polled freely. */
#ifndef SIGNALBUS_SUBSCRIPTION_H
#define SIGNALBUS_SUBSCRIPTION_H

#include "member.h"
#include "neighbour.h"
#include "ring.h"

BUS_BEGIN_DECLARATIONS

struct bus_subscription {
  char directory[256];
  char member[BUS_NAME_BYTES];
  char ring[BUS_NAME_BYTES];
  uint32_t record_type;
  uint32_t record_size;
  struct bus_position *position; /* own POSITION object of a reliable consumer; NULL: observer */
  char own_name[BUS_NAME_BYTES]; /* of that consumer's member */
  uint64_t own_instance;         /* of its file */
  struct bus_neighbour
      *neighbour;               /* NULL: not attached; consumer and observer must not be polled */
  struct bus_consumer consumer; /* used when position != NULL */
  struct bus_observer observer; /* used when position == NULL */
  bool from_oldest;             /* where an observer starts */
  uint64_t lost_before;         /* observer: lost in earlier instances */
  uint64_t attaches;            /* times that it was attached */
  int last_error;               /* why it is not attached: a negative enum bus_error */
};

/* Describes the tie; attaches nothing yet. `directory` NULL: bus_directory_default(). `self` is the
 * reliable consumer's own member, which must have a POSITION for that ring and outlive the
 * subscription; NULL: an observer. Set from_oldest afterwards where it is wanted. Returns BUS_OK or
 * BUS_ERROR_INVALID with a message. This and what follows: the thread that polls. */
BUS_EXPORT int bus_subscription_init(struct bus_subscription *subscription, const char *directory,
                                     const char *member, const char *ring, uint32_t record_type,
                                     uint32_t record_size, const struct bus_member *self);

/* Attaches, checks, attaches again. Returns 1 when it attached just now (a new instance: state
 * derived from the old one must go), 0 when nothing changed and it is attached, or the negative
 * reason why it is not, with a message: those of bus_neighbour_attach, BUS_ERROR_ABSENT when there
 * is no such ring, BUS_ERROR_VERSION when it carries other records; for a reliable consumer also
 * BUS_ERROR_INVALID when the ring holds back for another or for nobody, and BUS_ERROR_NOT_READY
 * when its producer lives and does not go by this consumer's file yet. System calls; maps and
 * allocates. `output_floor`: see bus_consumer_init. */
BUS_EXPORT int bus_subscription_maintain(struct bus_subscription *subscription,
                                         uint64_t output_floor);

/* Detaches; a reliable consumer's position is published first. It may be maintained again. */
BUS_EXPORT void bus_subscription_close(struct bus_subscription *subscription);

/* The producer's tie to its reliable consumer, kept by name in the same way: maps the consumer's
 * file and connects the position that its directory lists for this ring. */
struct bus_backlink {
  char directory[256];
  char consumer[BUS_NAME_BYTES]; /* "": nobody holds this producer back */
  char ring[BUS_NAME_BYTES];
  char producer_name[BUS_NAME_BYTES];
  struct bus_producer *producer;
  struct bus_neighbour *neighbour;
  int last_error;
};

/* `entry` is the producer's own ring, `member` the producer's name; `producer` must stay where it
 * is until the close. Returns BUS_OK or BUS_ERROR_INVALID with a message. This and what follows:
 * the producer's thread. */
BUS_EXPORT int bus_backlink_init(struct bus_backlink *backlink, const char *directory,
                                 const char *member, const struct bus_entry *entry,
                                 struct bus_producer *producer);

/* As bus_subscription_maintain; BUS_ERROR_ABSENT also when that member does not read this ring.
 * Housekeeping, and while waiting for room. */
BUS_EXPORT int bus_backlink_maintain(struct bus_backlink *backlink);

/* Disconnects the position and detaches. It may be maintained again. */
BUS_EXPORT void bus_backlink_close(struct bus_backlink *backlink);

BUS_END_DECLARATIONS

#endif
