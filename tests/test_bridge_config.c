#include "consumers/bridge_config.h"

#include "consumers/bridge_endpoint.h"
#include "consumers/nearest_word.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct bus_bridge_config config;

static int parse(const char *text)
{
  return bus_bridge_config_parse(text, strlen(text), &config);
}

static void accepted(const char *text)
{
  cr_assert_eq(parse(text), BUS_OK, "%s", bus_error_message());
}

/* Refused, with this in the message. */
static void refused(const char *text, const char *message)
{
  cr_assert_eq(parse(text), BUS_ERROR_FORMAT, "accepted: %s", text);
  cr_assert_not_null(strstr(bus_error_message(), message), "said '%s', not '%s'",
                     bus_error_message(), message);
}

#define BRIDGE "[bridge]\nclients = trader\n"
#define MAC    "[backend mac]\nurl = http://10.0.0.2:8080/v1\nflavor = mlx\n"
#define VLLM   "[backend vllm]\nurl = http://127.0.0.1:8000/v1\nflavor = vllm\n"
#define CHAT   "[class chat]\n"

Test(bridge_config, reads_every_key)
{
  accepted("; a bridge\r\n"
           "[bridge]\r\n"
           "clients = trader, analyst   ; who asks\r\n"
           "    night.shift\r\n"
           "requests_max = 100\n"
           "request_bytes_max = 2048\n"
           "answer_bytes_max = 4096\n"
           "record_bytes = 1024\n"
           "reply_depth = 64\n"
           "[class fast] # routed by it\n"
           "backends = mac:3,\n"
           "  cloud\n"
           "queue_max = 7\n"
           "tokens_max = 8\n"
           "retries_max = 0\n"
           "hedge_after_ms = 9\n"
           "hedge_percent = 10\n" MAC "[backend cloud]\n"
           "url = https://llm.example.org/openai/v1/\n"
           "flavor = openai\n"
           "model = big\n"
           "api_key_file = /etc/signal-bus/cloud.key\n"
           "ca_file = /etc/ssl/ca.pem\n"
           "concurrency = 5\n"
           "urgent_reserve = 1\n"
           "tokens_in_flight_max = 9000\n"
           "prefill_tokens_per_s = 42\n"
           "decode_tokens_per_s = 6.9\n"
           "connect_ms = 11\n"
           "first_token_ms = 12\n"
           "token_ms = 13\n"
           "total_ms = 14\n"
           "idle_ms = 15\n"
           "failures_to_open = 16\n"
           "open_ms = 17\n"
           "open_ms_max = 18\n"
           "canary_ms = 19");
  cr_assert_eq(config.client_count, 3);
  cr_assert_str_eq(config.clients[0], "trader");
  cr_assert_str_eq(config.clients[2], "night.shift");
  cr_assert_eq(config.requests_max, 100);
  cr_assert_eq(config.request_bytes_max, 2048);
  cr_assert_eq(config.answer_bytes_max, 4096);
  cr_assert_eq(config.record_bytes, 1024);
  cr_assert_eq(config.reply_depth, 64);
  const struct bus_bridge_class_config *fast = &config.classes[0];
  cr_assert_eq(config.class_count, 1);
  cr_assert_str_eq(fast->name, "fast");
  cr_assert_eq(fast->backend_count, 2);
  cr_assert_eq(fast->backends[0].backend, 0);
  cr_assert_eq(fast->backends[0].weight, 3);
  cr_assert_eq(fast->backends[1].backend, 1);
  cr_assert_eq(fast->backends[1].weight, 1);
  cr_assert_eq(fast->queue_max, 7);
  cr_assert_eq(fast->tokens_max, 8);
  cr_assert_eq(fast->retries_max, 0);
  cr_assert_eq(fast->hedge_after_ns, 9000000);
  cr_assert_eq(fast->hedge_percent, 10);
  const struct bus_bridge_backend_config *cloud = &config.backends[1];
  cr_assert_eq(config.backend_count, 2);
  cr_assert(cloud->tls);
  cr_assert_str_eq(cloud->host, "llm.example.org");
  cr_assert_str_eq(cloud->path, "/openai/v1");
  cr_assert_str_eq(cloud->model, "big");
  cr_assert_str_eq(cloud->api_key_file, "/etc/signal-bus/cloud.key");
  cr_assert_str_eq(cloud->ca_file, "/etc/ssl/ca.pem");
  cr_assert_eq(cloud->concurrency, 5);
  cr_assert_eq(cloud->urgent_reserve, 1);
  cr_assert_eq(cloud->tokens_in_flight_max, 9000);
  cr_assert_eq(cloud->prefill_tokens_per_s, 42);
  cr_assert_eq(cloud->decode_tokens_per_s, 6.9);
  cr_assert_eq(cloud->peer.connect_timeout_ns, 11000000);
  cr_assert_eq(cloud->first_token_timeout_ns, 12000000);
  cr_assert_eq(cloud->token_timeout_ns, 13000000);
  cr_assert_eq(cloud->total_timeout_ns, 14000000);
  cr_assert_eq(cloud->idle_ns, 15000000);
  cr_assert_eq(cloud->failures_to_open, 16);
  cr_assert_eq(cloud->open_ns, 17000000);
  cr_assert_eq(cloud->open_ns_max, 18000000);
  cr_assert_eq(cloud->canary_interval_ns, 19000000);
}

Test(bridge_config, knows_the_habits_of_servers)
{
  accepted(BRIDGE MAC VLLM CHAT);
  const struct bus_bridge_backend_config *mac = &config.backends[0], *vllm = &config.backends[1];
  cr_assert_eq(mac->flavor, BUS_LLM_FLAVOR_MLX);
  cr_assert_eq(mac->idle_ns, 0);
  cr_assert_eq(mac->concurrency, 2);
  cr_assert_eq(mac->canary_interval_ns, 60000000000);
  cr_assert_str_eq(mac->authorization, "Bearer none");
  cr_assert_eq(vllm->idle_ns, 4000000000);
  cr_assert_eq(vllm->concurrency, 64);
  cr_assert_eq(vllm->canary_interval_ns, 0);
  /* A class that names no server has all of them. */
  cr_assert_eq(config.classes[0].backend_count, 2);
  cr_assert_eq(config.classes[0].backends[1].backend, 1);
  cr_assert_eq(config.classes[0].backends[1].weight, 1);
  /* What is said outweighs what is known, wherever flavor= stands. */
  accepted(BRIDGE CHAT "[backend mac]\nidle_ms = 5\nurl = http://10.0.0.2\nflavor = mlx");
  cr_assert_eq(config.backends[0].idle_ns, 5000000);
}

Test(bridge_config, names_the_line_of_the_first_mistake)
{
  refused("", "line 1: no clients");
  refused("[bridge]\n\n", "line 2: no clients: [bridge] needs clients=");
  refused(BRIDGE, "no server: add [backend NAME]");
  refused(BRIDGE MAC, "no class: add [class NAME]");
  refused("clients = a\n" BRIDGE, "line 1: 'clients' stands before the first section");
  refused(BRIDGE "[bridge]\n", "line 3: a second [bridge]");
  refused(BRIDGE MAC MAC, "line 6: a second [backend mac]");
  refused(BRIDGE MAC CHAT CHAT, "line 7: a second [class chat]");
  refused(BRIDGE "[server mac]\n", "line 3: [server mac]: a section is [bridge], [backend NAME]");
  refused(BRIDGE "[backend]\n", "line 3: [backend]: the name of a backend is 1..16");
  refused(BRIDGE "[backend a.b]\n", "line 3: [backend a.b]: the name");
  refused(BRIDGE "[class abcdefghijklmnopq]\n", "the name of a class is 1..16");
  refused(BRIDGE "[backend class]\n", "choose another name");
  refused(BRIDGE "[backend mac\n", "line 3: a section begins with [name]; the ] is missing");
  refused(BRIDGE "[backend mac] x\n", "line 3: nothing but a comment");
  refused(BRIDGE " [backend mac]\n", "line 3: a section begins at the left margin");
  refused(BRIDGE "nonsense\n", "line 3: neither [section] nor key=value");
  refused(BRIDGE "clients = b\n", "line 3: clients= is given twice");
  refused(BRIDGE MAC "  mlx\n", "line 6: flavor= is given twice in [backend mac] (an indented");
  refused(BRIDGE "reply_depth =\n", "line 3: reply_depth= has no value");
  refused(BRIDGE "reply_depth = 8\001\n", "line 3: holds a control character");
  refused(BRIDGE "[backend x]\nflavor = mlx\n[class y]\n", "line 3: [backend x] has no url=");
}

Test(bridge_config, refuses_values_that_make_no_sense)
{
  refused("[bridge]\nclients = a, b, a\n" MAC CHAT, "line 2: clients=: 'a' is named twice");
  refused("[bridge]\nclients = a/b\n" MAC CHAT, "line 2: clients=: 'a/b'");
  refused(BRIDGE "requests_max = 1\n", "requests_max");
  refused(BRIDGE "record_bytes = 1000\n" MAC CHAT, "line 1: record_bytes=1000 is no multiple");
  refused(BRIDGE "reply_depth = 100\n" MAC CHAT, "reply_depth=100 is no power of two");
  refused(BRIDGE "record_bytes = 192\n" MAC CHAT, "takes more than 1024 slots");
  refused(BRIDGE MAC "model = x\n" CHAT, "mlx_lm.server would unload its model");
  refused(BRIDGE MAC "flavor = mxl\n", "flavor");
  refused(BRIDGE MAC "urgent_reserve = 2\n" CHAT, "urgent_reserve=2 leaves nothing");
  refused(BRIDGE MAC "open_ms = 50000\n" CHAT, "open_ms=50000 is more than open_ms_max=30000");
  refused(BRIDGE MAC "ca_file = x\n" CHAT, "ca_file= is of use with an https url only");
  refused(BRIDGE MAC "api_key_file = x\napi_key_env = Y\n" CHAT, "not both");
  refused(BRIDGE MAC "decode_tokens_per_s = inf\n", "give tokens per second");
  refused(BRIDGE MAC "decode_tokens_per_s = -1\n", "give tokens per second");
  refused(BRIDGE MAC "decode_tokens_per_s = .\n", "give tokens per second");
  refused(BRIDGE MAC "first_token_ms = 30s\n", "first_token_ms");
  refused(BRIDGE MAC CHAT "backends = mac:0\n", "backends=: of 'mac'");
  refused(BRIDGE MAC CHAT "backends = mac, mca\n", "line 7: backends=: there is no [backend mca]");
  refused(BRIDGE MAC CHAT "backends = mac, mac:2\n", "'mac' is named twice");
  refused(BRIDGE MAC CHAT "backends = ,\n", "backends= names no server");
  refused(BRIDGE MAC CHAT "hedge_after_ms = 5\n", "needs a second server");
}

Test(bridge_config, suggests_the_key_that_was_meant)
{
  refused(BRIDGE MAC "frist_token_ms = 5\n",
          "line 6: unknown key 'frist_token_ms' in [backend mac]; the nearest is 'first_token_ms'");
  refused(BRIDGE MAC "idle = 5\n", "the nearest is 'idle_ms'");
  refused(BRIDGE "client = 5\n", "the nearest is 'clients'");
  refused(BRIDGE "url = http://x\n", "'url' belongs into a [backend] section, not into [bridge]");
  struct bus_nearest_word nearest = {0};
  bus_nearest_word_try(&nearest, "abc", "");
  cr_assert_eq(nearest.edits, 3);
  bus_nearest_word_try(&nearest, "abc", "xbcd");
  cr_assert_eq(nearest.edits, 2);
  bus_nearest_word_try(&nearest, "abc", "abcde");
  cr_assert_eq(nearest.edits, 1, "a missing end is one");
  bus_nearest_word_try(&nearest, "abc", "abc");
  cr_assert_eq(nearest.edits, 0);
  bus_nearest_word_try(&nearest, "abc", "abd");
  cr_assert_str_eq(nearest.word, "abc");
}

Test(bridge_config, holds_as_much_as_it_says_and_no_more)
{
  char text[8192] = BRIDGE;
  for (unsigned i = 0; i < BUS_BRIDGE_BACKENDS_MAX; i++)
    sprintf(text + strlen(text), "[backend b%u]\nurl = http://10.0.0.%u\n[class c%u]\n", i, i, i);
  accepted(text);
  cr_assert_eq(config.classes[15].backend_count, 16);
  size_t full = strlen(text);
  strcpy(text + full, "[backend b16]\n");
  refused(text, "more than 16 servers");
  strcpy(text + full, "[class c16]\n");
  refused(text, "more than 16 classes");
  strcpy(text, "[bridge]\nclients = c\n");
  for (unsigned i = 0; i < 32; i++)
    sprintf(text + strlen(text), "  c%u,\n", i);
  refused(text, "line 2: clients=: more than 32");
}

/* ---- URLs ---- */

static struct bus_bridge_backend_config backend;

static void takes_url(const char *url, const char *host, uint16_t port, const char *path)
{
  memset(&backend, 0, sizeof backend);
  cr_assert_eq(bus_bridge_url_parse(url, &backend), BUS_OK, "%s: %s", url, bus_error_message());
  cr_assert_str_eq(backend.host, host);
  cr_assert_str_eq(backend.path, path);
  cr_assert_eq(backend.port, port);
}

Test(bridge_endpoint, takes_urls_apart)
{
  takes_url("http://10.0.0.2:8080/v1", "10.0.0.2:8080", 8080, "/v1");
  const struct sockaddr_in *v4 = (const void *)&backend.peer.address;
  cr_assert_eq(backend.peer.address_bytes, sizeof *v4);
  cr_assert_eq(ntohl(v4->sin_addr.s_addr), 0x0a000002);
  cr_assert_eq(ntohs(v4->sin_port), 8080);
  takes_url("https://[2001:db8::1]:8443/a/b//", "[2001:db8::1]:8443", 8443, "/a/b");
  const struct sockaddr_in6 *v6 = (const void *)&backend.peer.address;
  cr_assert_eq(v6->sin6_family, AF_INET6);
  cr_assert_eq(ntohs(v6->sin6_port), 8443);
  cr_assert_str_eq(backend.peer.server_name, "2001:db8::1");
  takes_url("http://mac.local", "mac.local", 80, "/v1");
  cr_assert_eq(backend.peer.address_bytes, 0);
  cr_assert_not(backend.tls);
  takes_url("https://api.example.org:443/", "api.example.org", 443, "");
  cr_assert(backend.tls);
}

Test(bridge_endpoint, refuses_urls_without_repeating_them)
{
  static const char *const urls[] = {"10.0.0.2:8080",
                                     "ftp://x/",
                                     "http://",
                                     "http:///v1",
                                     "http://user:secret@host/v1",
                                     "http://secret@host",
                                     "http://h:0/",
                                     "http://h:65536",
                                     "http://h:",
                                     "http://h:secret",
                                     "http://[::1",
                                     "http://[::1]secret",
                                     "http://[10.0.0.2]",
                                     "http://h/v1?secret",
                                     "http://h/v1#x",
                                     "http://h?secret=1",
                                     "http://h/a b",
                                     "http://h\xc3\xa4/"};
  for (size_t i = 0; i < BUS_COUNT_OF(urls); i++) {
    cr_assert_eq(bus_bridge_url_parse(urls[i], &backend), BUS_ERROR_FORMAT, "%s", urls[i]);
    cr_assert_null(strstr(bus_error_message(), "secret"), "%s", bus_error_message());
    cr_assert_eq(strncmp(bus_error_message(), "url: ", 5), 0);
  }
}

Test(bridge_endpoint, finds_hosts_by_name)
{
  takes_url("http://localhost:1234", "localhost:1234", 1234, "/v1");
  cr_assert_eq(bus_bridge_host_resolve(&backend), BUS_OK, "%s", bus_error_message());
  cr_assert_gt(backend.peer.address_bytes, 0);
  takes_url("http://no-such-host.invalid", "no-such-host.invalid", 80, "/v1");
  cr_assert_eq(bus_bridge_host_resolve(&backend), BUS_ERROR_ABSENT);
  cr_assert_not_null(strstr(bus_error_message(), "no-such-host.invalid"));
}

/* ---- keys ---- */

static char key_path[64];

/* A file with these bytes and this mode. */
static void write_key(const char *bytes, mode_t mode)
{
  snprintf(key_path, sizeof key_path, "/tmp/signalbus-key-%d", (int)getpid());
  FILE *file = fopen(key_path, "w");
  cr_assert_not_null(file);
  fputs(bytes, file);
  fclose(file);
  cr_assert_eq(chmod(key_path, mode), 0);
  memset(&backend, 0, sizeof backend);
  strcpy(backend.name, "cloud");
  strcpy(backend.api_key_file, key_path);
}

static void remove_key(void)
{
  unlink(key_path);
}

static void refuses_key(const char *bytes, mode_t mode, int error, const char *message)
{
  write_key(bytes, mode);
  cr_assert_eq(bus_bridge_key_read(&backend), error);
  cr_assert_not_null(strstr(bus_error_message(), message), "%s", bus_error_message());
  cr_assert_null(strstr(bus_error_message(), "sk-"), "%s", bus_error_message());
  cr_assert_str_eq(backend.authorization, "Bearer none");
}

Test(bridge_endpoint, reads_keys_from_closed_files, .fini = remove_key)
{
  write_key("sk-1234\n", 0600);
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(backend.authorization, "Bearer sk-1234");
  write_key("sk-5678\r\n", 0440);
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(backend.authorization, "Bearer sk-5678");
  char longest[1002];
  memset(longest, 'k', 1000);
  longest[1000] = 0;
  write_key(longest, 0400);
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(strlen(backend.authorization), 1007);
}

Test(bridge_endpoint, refuses_keys_that_others_can_read, .fini = remove_key)
{
  refuses_key("sk-1", 0644, BUS_ERROR_DENIED, "chmod o=,g-w");
  refuses_key("sk-1", 0601, BUS_ERROR_DENIED, "mode 0601");
  refuses_key("sk-1", 0620, BUS_ERROR_DENIED, "mode 0620");
  refuses_key("", 0600, BUS_ERROR_INVALID, "holds no key");
  refuses_key("sk-1 sk-2", 0600, BUS_ERROR_INVALID, "at 4");
  refuses_key("sk-1\r\nX-Header: 1\n", 0600, BUS_ERROR_INVALID, "at 4");
  char long_key[1200] = "sk-";
  memset(long_key + 3, 'k', 1100);
  refuses_key(long_key, 0600, BUS_ERROR_INVALID, "too much for a key");
  strcpy(backend.api_key_file, "/no/such/key");
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_ERROR_ABSENT);
  strcpy(backend.api_key_file, "/dev");
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_ERROR_INVALID);
}

Test(bridge_endpoint, reads_keys_from_the_environment)
{
  memset(&backend, 0, sizeof backend);
  strcpy(backend.api_key_env, "SIGNALBUS_TEST_KEY");
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_ERROR_ABSENT);
  setenv("SIGNALBUS_TEST_KEY", "sk-env", 1);
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(backend.authorization, "Bearer sk-env");
  setenv("SIGNALBUS_TEST_KEY", "", 1);
  cr_assert_eq(bus_bridge_key_read(&backend), BUS_ERROR_INVALID);
}

Test(bridge_endpoint, knows_when_a_key_crosses_a_network_unencrypted)
{
  takes_url("http://10.0.0.2", "10.0.0.2", 80, "/v1");
  cr_assert_not(bus_bridge_key_is_exposed(&backend), "there is no key");
  strcpy(backend.api_key_env, "X");
  cr_assert(bus_bridge_key_is_exposed(&backend));
  takes_url("http://127.1.2.3", "127.1.2.3", 80, "/v1");
  strcpy(backend.api_key_env, "X");
  cr_assert_not(bus_bridge_key_is_exposed(&backend));
  takes_url("http://[::1]", "[::1]", 80, "/v1");
  strcpy(backend.api_key_env, "X");
  cr_assert_not(bus_bridge_key_is_exposed(&backend));
  takes_url("https://10.0.0.2", "10.0.0.2", 443, "/v1");
  strcpy(backend.api_key_env, "X");
  cr_assert_not(bus_bridge_key_is_exposed(&backend));
}

Test(bridge_config, reads_the_whole_from_files, .fini = remove_key)
{
  char path[64], text[1024];
  write_key("sk-file\n", 0600);
  snprintf(path, sizeof path, "/tmp/signalbus-bridge-%d.ini", (int)getpid());
  snprintf(text, sizeof text, BRIDGE VLLM "api_key_file = %s\n" CHAT, key_path);
  FILE *file = fopen(path, "w");
  cr_assert_not_null(file);
  fputs(text, file);
  fclose(file);
  cr_assert_eq(bus_bridge_config_read(path, &config), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(config.backends[0].authorization, "Bearer sk-file");
  chmod(key_path, 0644);
  cr_assert_eq(bus_bridge_config_read(path, &config), BUS_ERROR_DENIED);
  cr_assert_eq(strncmp(bus_error_message(), path, strlen(path)), 0, "%s", bus_error_message());
  unlink(path);
  cr_assert_eq(bus_bridge_config_read(path, &config), BUS_ERROR_ABSENT);
}
