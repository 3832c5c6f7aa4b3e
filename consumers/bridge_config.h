/* bridge_config.h: what bus-bridge is told: servers, classes of work, clients. Read once from an
 * INI file; the core reads these structs and never changes them. */
#ifndef SIGNALBUS_BRIDGE_CONFIG_H
#define SIGNALBUS_BRIDGE_CONFIG_H

#include "consumers/llm_exchange.h"
#include "consumers/transport.h"

BUS_BEGIN_DECLARATIONS

#define BUS_BRIDGE_BACKENDS_MAX 16u
#define BUS_BRIDGE_CLASSES_MAX  16u
#define BUS_BRIDGE_CLIENTS_MAX  32u
/* Characters of a server's or class's name, A-Za-z0-9_-: "NAME.first_token_ns" and
 * "class.NAME.rejected" are names of objects in the bridge's file. */
#define BUS_BRIDGE_NAME_MAX         16u

#define BUS_BRIDGE_CONFIG_BYTES_MAX (256u << 10) /* of the INI file */

/* [backend NAME]: one server. */
struct bus_bridge_backend_config {
  char name[BUS_LLM_NAME_BYTES];  /* at most BUS_BRIDGE_NAME_MAX characters */
  struct bus_transport_peer peer; /* address resolved; server_name always; tls NULL: whoever owns
                                     the TLS clients sets it, where `tls` below says so */
  uint16_t port;
  bool tls;                      /* the URL begins with https */
  char host[280];                /* the Host header */
  char path[128];                /* "/v1" */
  char model[128];               /* "": not sent */
  char authorization[1024];      /* "Bearer ..": from a file or the environment; never logged */
  char api_key_file[192];        /* where that key is from; "": not from a file */
  char api_key_env[64];          /* name of the variable; "": not from one */
  char ca_file[192];             /* https: PEM certificates to trust; "": the system's */
  uint32_t flavor;               /* enum bus_llm_flavor */
  uint32_t concurrency;          /* requests at a time, 1.. */
  uint32_t urgent_reserve;       /* of these, kept free for urgent ones, 0..concurrency-1 */
  uint32_t tokens_in_flight_max; /* estimated prompt + answer tokens at a time; 0: no limit */
  double prefill_tokens_per_s;   /* of one request; 0: unknown, no admission by time */
  double decode_tokens_per_s;
  uint64_t first_token_timeout_ns; /* from the request's last byte; 0: none */
  uint64_t token_timeout_ns;       /* between tokens; 0: none */
  uint64_t total_timeout_ns;       /* of one attempt; 0: none but the deadline */
  uint64_t idle_ns;                /* how long a connection without work is kept; 0: not */
  uint32_t failures_to_open;       /* in a row, before it is left alone, 1.. */
  uint64_t open_ns;                /* how long at first; doubled each time ... */
  uint64_t open_ns_max;            /* ... up to this */
  uint64_t canary_interval_ns;     /* a one-token request after so long without success; 0: only to
                                      close an open breaker */
};

/* [class NAME]: what requests are routed by. */
struct bus_bridge_class_config {
  char name[BUS_LLM_NAME_BYTES];
  uint32_t backend_count; /* 1.. */
  struct {
    uint32_t backend; /* index */
    uint32_t weight;  /* 1..: share of the work */
  } backends[BUS_BRIDGE_BACKENDS_MAX];
  uint32_t queue_max;      /* waiting requests beyond which new ones are rejected */
  uint32_t tokens_max;     /* of an answer: the default and the limit; 0: neither */
  uint32_t retries_max;    /* further attempts after the first */
  uint64_t hedge_after_ns; /* ask a second server when no token came by then; 0: never */
  uint32_t hedge_percent;  /* at most so many of 100 requests, 0..100 */
};

struct bus_bridge_config {
  uint32_t backend_count;
  struct bus_bridge_backend_config backends[BUS_BRIDGE_BACKENDS_MAX];
  uint32_t class_count;
  struct bus_bridge_class_config classes[BUS_BRIDGE_CLASSES_MAX];
  uint32_t client_count;
  char clients[BUS_BRIDGE_CLIENTS_MAX][BUS_LLM_NAME_BYTES]; /* members */
  uint32_t requests_max;      /* entries of the in-flight table, 2..65536 */
  uint32_t request_bytes_max; /* text of one request */
  uint32_t answer_bytes_max;  /* text of one answer, whatever reply_slots allow */
  uint32_t record_bytes;      /* of a slot of the request rings and reply rings */
  uint32_t reply_depth;       /* slots of each reply ring, a power of two */
};

/* Reads `path` with defaults for what it does not say, checks it, reads the key files and resolves
 * the hosts (which may take long: start-up only). `config` is large: not for the stack of a small
 * thread. Errors, with a message that names file, line or section, and the fix: BUS_ERROR_ABSENT
 * (a file, a variable, a host name that nobody knows), BUS_ERROR_DENIED (also: a key file that
 * others may read), BUS_ERROR_FORMAT, BUS_ERROR_INVALID (a key that cannot be one),
 * BUS_ERROR_NO_SPACE, BUS_ERROR_IO. No message holds a key. */
BUS_EXPORT int bus_bridge_config_read(const char *path, struct bus_bridge_config *config);

/* As read, from `size` bytes of text, without touching the file system, the environment or the
 * network: keys are not read (authorization is "Bearer none"), hosts must be numeric addresses or
 * stay unresolved (address_bytes 0). For tests and the fuzzer. BUS_ERROR_FORMAT with a message
 * "line N: ..", or BUS_ERROR_NO_SPACE; *config is then undefined. */
BUS_EXPORT int bus_bridge_config_parse(const char *text, size_t size,
                                       struct bus_bridge_config *config);

/* Writes what `config` makes of requests, for people: each server with its limits and where its key
 * is from, each class with its servers, the clients. No keys. Ends with a line's end unless it was
 * cut to `size` bytes. */
BUS_EXPORT void bus_bridge_config_print(const struct bus_bridge_config *config, char *text,
                                        size_t size);

BUS_END_DECLARATIONS

#endif
