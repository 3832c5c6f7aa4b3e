/* transport_kinds.h: the kinds of transport that a test of transports runs on. */
#ifndef SIGNALBUS_TESTS_TRANSPORT_KINDS_H
#define SIGNALBUS_TESTS_TRANSPORT_KINDS_H

#include "consumers/transport_uring.h"
#include "tests/transport_server.h"

#include "consumers/transport_tls.h"

#include <poll.h>
#ifdef BUS_WITH_TLS
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#endif

struct kind {
  enum { EPOLL, URING, URING_PLAIN_FILES } base;
  bool tls;
};

#ifdef BUS_WITH_TLS

/* What a certificate is made of. */
struct certificate_spec {
  const char *names; /* "IP:127.0.0.1", "DNS:localhost", ..; NULL: an authority */
  long from_s, to_s; /* of its validity, from now */
  X509 *issuer;      /* NULL: itself */
  EVP_PKEY *issuer_key;
};

static void add_extension(X509 *certificate, X509 *issuer, int id, const char *value)
{
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, id, value);
  cr_assert_not_null(extension);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

static X509 *make_certificate(EVP_PKEY *key, const struct certificate_spec *spec)
{
  static long serial;
  X509 *certificate = X509_new();
  X509 *issuer = spec->issuer ? spec->issuer : certificate;
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), spec->from_s);
  X509_gmtime_adj(X509_getm_notAfter(certificate), spec->to_s);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             (const unsigned char *)(spec->names ? "server" : "authority"), -1, -1,
                             0);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer));
  add_extension(certificate, issuer, NID_basic_constraints,
                spec->names ? "critical,CA:FALSE" : "critical,CA:TRUE");
  if (spec->names)
    add_extension(certificate, issuer, NID_subject_alt_name, spec->names);
  cr_assert(X509_sign(certificate, spec->issuer_key ? spec->issuer_key : key, EVP_sha256()) > 0);
  return certificate;
}

/* A server's side with a certificate of its own. */
static SSL_CTX *make_server_tls(const struct certificate_spec *spec)
{
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *certificate = make_certificate(key, spec);
  cr_assert_eq(SSL_CTX_use_certificate(context, certificate), 1);
  cr_assert_eq(SSL_CTX_use_PrivateKey(context, key), 1);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

static X509 *authority;
static EVP_PKEY *authority_key;
static SSL_CTX *server_tls;
static struct bus_tls_client *tls_client;

#define DAY_S (24L * 3600)

/* An authority, a client that trusts it alone, and a server that it vouches for. */
static void make_trust(void)
{
  if (authority)
    return;
  authority_key = EVP_EC_gen("P-256");
  authority = make_certificate(authority_key,
                               &(const struct certificate_spec){NULL, -DAY_S, DAY_S, NULL, NULL});
  char path[] = "/tmp/transport-authority-XXXXXX";
  const int fd = mkstemp(path);
  FILE *file = fdopen(fd, "w");
  PEM_write_X509(file, authority);
  fclose(file);
  const int error = bus_tls_client_new(path, &tls_client);
  unlink(path);
  cr_assert_eq(error, BUS_OK, "%s", bus_error_message());
  server_tls = make_server_tls(&(const struct certificate_spec){
      "IP:127.0.0.1,DNS:localhost", -DAY_S, DAY_S, authority, authority_key});
}

static SSL_CTX *kind_server_tls(const struct kind *kind)
{
  if (kind->tls)
    make_trust();
  return kind->tls ? server_tls : NULL;
}

static const struct bus_tls_client *kind_client_tls(const struct kind *kind)
{
  if (kind->tls)
    make_trust();
  return kind->tls ? tls_client : NULL;
}

/* Frees what the tests of TLS share, in a test's process; when its connections are gone. */
static void kind_end(const struct kind *kind)
{
  (void)kind;
  X509_free(authority);
  EVP_PKEY_free(authority_key);
  SSL_CTX_free(server_tls);
  bus_tls_client_free(tls_client);
  authority = NULL;
}

#else

static SSL_CTX *kind_server_tls(const struct kind *kind)
{
  (void)kind;
  return NULL;
}

static const struct bus_tls_client *kind_client_tls(const struct kind *kind)
{
  (void)kind;
  return NULL;
}

static void kind_end(const struct kind *kind)
{
  (void)kind;
}

#endif

/* io_uring is tested where it is; elsewhere its tests say why they are skipped. */
static int kind_make(const struct kind *kind, uint32_t connections_max,
                     struct bus_transport **transport)
{
  int error = kind->base == EPOLL
                  ? bus_transport_epoll_new(connections_max, transport)
                  : bus_transport_uring_new_with(connections_max, kind->base == URING, transport);
  if (error == BUS_ERROR_DENIED || error == BUS_ERROR_UNSUPPORTED)
    cr_skip_test("%s", bus_error_message());
  if (!error && kind->tls)
    error = bus_transport_tls_new(*transport, transport);
  return error;
}

#define ON_KIND(suite, body, ...)                                                                  \
  Test(suite, body)                                                                                \
  {                                                                                                \
    body(&(const struct kind){__VA_ARGS__});                                                       \
  }
#define ON_PLAIN_KINDS(body)                                                                       \
  ON_KIND(epoll, body, EPOLL, false)                                                               \
  ON_KIND(uring, body, URING, false)                                                               \
  ON_KIND(uring_plain_files, body, URING_PLAIN_FILES, false)
#ifdef BUS_WITH_TLS
#define ON_TLS_KINDS(body)                                                                         \
  ON_KIND(epoll_tls, body, EPOLL, true)                                                            \
  ON_KIND(uring_tls, body, URING, true)
#else
#define ON_TLS_KINDS(body)
#endif
#define ON_ALL_KINDS(body)                                                                         \
  ON_PLAIN_KINDS(body)                                                                             \
  ON_TLS_KINDS(body)

#endif
