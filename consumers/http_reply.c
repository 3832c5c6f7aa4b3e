#include "consumers/http_reply.h"

#include "shm/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#ifdef BUS_HTTP_PARSER
#include <http_parser.h>
typedef struct http_parser library_parser;
typedef struct http_parser_settings library_settings;
#define STOP            1
#define STOP_AT_MESSAGE 0 /* this library is paused instead */
#else
#include <llhttp.h>
typedef llhttp_t library_parser;
typedef llhttp_settings_t library_settings;
#define STOP            HPE_USER
#define STOP_AT_MESSAGE HPE_PAUSED
#endif

struct bus_http_parse {
  struct bus_http_reply reply; /* first: what the caller holds */
  bool (*body)(void *context, const char *bytes, size_t size);
  void *context;
  library_parser parser;
  char name[20]; /* of the header under way; none that counts is longer */
  uint32_t name_bytes;
  char *value; /* where its value belongs; NULL: nowhere */
  uint32_t value_bytes, value_bytes_max;
  bool in_value;
  const char *mark;   /* in the present bytes: where the frame under way began */
  size_t frame_bytes; /* of it, in earlier bytes */
};

static struct bus_http_parse *parse_of(library_parser *parser)
{
  return parser->data;
}

static void refuse(struct bus_http_parse *parse, const char *problem)
{
  if (parse->reply.state == BUS_HTTP_REPLY_MORE) {
    parse->reply.state = BUS_HTTP_REPLY_REFUSED;
    parse->reply.problem = problem;
  }
}

/* No frame may grow for ever; `at`: where the next piece of the body begins, or the bytes end. */
static void end_frame(struct bus_http_parse *parse, const char *at)
{
  parse->frame_bytes += (size_t)(at - parse->mark);
  parse->mark = at;
  if (parse->frame_bytes > BUS_HTTP_REPLY_FRAME_BYTES_MAX)
    refuse(parse, "the header, a chunk's frame or the trailers are longer than any should be");
}

/* Header fields come in pieces too; the first piece of a name says that the value before is whole.
 */
static int take_header_name(library_parser *parser, const char *at, size_t size)
{
  struct bus_http_parse *parse = parse_of(parser);
  if (parse->in_value) {
    parse->in_value = false;
    parse->name_bytes = 0;
  }
  if (parse->name_bytes + size < sizeof parse->name) {
    memcpy(parse->name + parse->name_bytes, at, size);
    parse->name_bytes += (uint32_t)size;
  } else {
    parse->name_bytes = sizeof parse->name; /* longer than any that counts */
  }
  return 0;
}

static void begin_value(struct bus_http_parse *parse)
{
  struct bus_http_reply *reply = &parse->reply;
  const struct {
    const char *name;
    char *value;
    size_t size;
  } known[] = {
      {"retry-after", reply->retry_after, sizeof reply->retry_after},
      {"content-encoding", reply->content_encoding, sizeof reply->content_encoding},
      {"location", reply->location, sizeof reply->location},
  };
  parse->in_value = true;
  parse->value = NULL;
  parse->value_bytes = 0;
  if (reply->header_whole) /* a trailer is no header */
    return;
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++)
    if (parse->name_bytes == strlen(known[i].name) &&
        !strncasecmp(parse->name, known[i].name, parse->name_bytes)) {
      parse->value = known[i].value;
      parse->value_bytes_max = (uint32_t)known[i].size - 1;
      parse->value[0] = 0;
    }
}

static int take_header_value(library_parser *parser, const char *at, size_t size)
{
  struct bus_http_parse *parse = parse_of(parser);
  if (!parse->in_value)
    begin_value(parse);
  if (!parse->value)
    return 0;
  if (size > parse->value_bytes_max - parse->value_bytes) {
    parse->value[0] = 0;
    parse->value = NULL;
    return 0;
  }
  memcpy(parse->value + parse->value_bytes, at, size);
  parse->value_bytes += (uint32_t)size;
  parse->value[parse->value_bytes] = 0;
  return 0;
}

static void forget_header(struct bus_http_parse *parse)
{
  struct bus_http_reply *reply = &parse->reply;
  reply->retry_after[0] = reply->content_encoding[0] = reply->location[0] = 0;
  parse->in_value = false;
  parse->name_bytes = 0;
}

static bool library_keeps(const library_parser *parser)
{
#ifdef BUS_HTTP_PARSER
  return http_should_keep_alive(parser);
#else
  return llhttp_should_keep_alive(parser);
#endif
}

/* The libraries leave the white space behind a value in it. */
static void trim(char *value)
{
  size_t size = strlen(value);
  while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
    value[--size] = 0;
}

static int take_header_end(library_parser *parser)
{
  struct bus_http_parse *parse = parse_of(parser);
  struct bus_http_reply *reply = &parse->reply;
  if (parser->http_major != 1)
    refuse(parse, "the reply is of a version of HTTP other than 1");
  else if (parser->status_code == 101)
    refuse(parse, "the server switches protocols unasked");
  else if (parser->status_code < 100 || parser->status_code > 599)
    refuse(parse, "there is no such status");
  if (reply->state != BUS_HTTP_REPLY_MORE)
    return -1;
  if (parser->status_code / 100 != 1) {
    reply->status = (uint16_t)parser->status_code;
    reply->header_whole = true;
    reply->kept = library_keeps(parser);
    trim(reply->retry_after);
    trim(reply->content_encoding);
    trim(reply->location);
  }
  return 0;
}

static int take_body(library_parser *parser, const char *at, size_t size)
{
  struct bus_http_parse *parse = parse_of(parser);
  end_frame(parse, at);
  if (parse->reply.state != BUS_HTTP_REPLY_MORE)
    return STOP;
  parse->mark = at + size;
  parse->frame_bytes = 0;
  if (parse->body(parse->context, at, size))
    return 0;
  parse->reply.state = BUS_HTTP_REPLY_STOPPED;
  return STOP;
}

static int take_message_end(library_parser *parser)
{
  struct bus_http_parse *parse = parse_of(parser);
  if (!parse->reply.header_whole) {
    forget_header(parse);
    return 0;
  }
  if (parse->reply.state == BUS_HTTP_REPLY_MORE)
    parse->reply.state = BUS_HTTP_REPLY_WHOLE;
#ifdef BUS_HTTP_PARSER
  http_parser_pause(parser, 1);
#endif
  return STOP_AT_MESSAGE;
}

static const library_settings settings = {
    .on_header_field = take_header_name,
    .on_header_value = take_header_value,
    .on_headers_complete = take_header_end,
    .on_body = take_body,
    .on_message_complete = take_message_end,
};

#ifdef BUS_HTTP_PARSER
static void library_begin(struct bus_http_parse *parse)
{
  http_parser_init(&parse->parser, HTTP_RESPONSE);
}

static size_t library_take(struct bus_http_parse *parse, const char *bytes, size_t size)
{
  size_t taken = http_parser_execute(&parse->parser, &settings, bytes, size);
  enum http_errno error = HTTP_PARSER_ERRNO(&parse->parser);
  if (error != HPE_OK && error != HPE_PAUSED)
    refuse(parse, http_errno_description(error));
  return taken;
}

static void library_end(struct bus_http_parse *parse)
{
  http_parser_execute(&parse->parser, &settings, NULL, 0);
}

const char *bus_http_reply_library(void)
{
  static char name[48];
  const unsigned long version = http_parser_version();
  snprintf(name, sizeof name, "http-parser %lu.%lu.%lu", version >> 16 & 255, version >> 8 & 255,
           version & 255);
  return name;
}
#else
static void library_begin(struct bus_http_parse *parse)
{
  llhttp_init(&parse->parser, HTTP_RESPONSE, &settings);
}

static size_t library_take(struct bus_http_parse *parse, const char *bytes, size_t size)
{
  llhttp_errno_t error = llhttp_execute(&parse->parser, bytes, size);
  if (error == HPE_OK)
    return size;
  if (error != HPE_PAUSED)
    refuse(parse, llhttp_get_error_reason(&parse->parser));
  return (size_t)(llhttp_get_error_pos(&parse->parser) - bytes);
}

static void library_end(struct bus_http_parse *parse)
{
  llhttp_finish(&parse->parser);
}

const char *bus_http_reply_library(void)
{
  static char name[48];
  snprintf(name, sizeof name, "llhttp %d.%d.%d", LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR,
           LLHTTP_VERSION_PATCH);
  return name;
}
#endif

int bus_http_reply_new(bool (*body)(void *context, const char *bytes, size_t size),
                       struct bus_http_reply **reply)
{
  struct bus_http_parse *parse = calloc(1, sizeof *parse);
  if (!parse)
    return bus_error_set(BUS_ERROR_NO_SPACE, "there is no memory for the parser of a reply");
  parse->body = body;
  parse->reply.parse = parse;
  *reply = &parse->reply;
  return BUS_OK;
}

void bus_http_reply_begin(struct bus_http_reply *reply, void *context)
{
  struct bus_http_parse *parse = reply->parse;
  memset(reply, 0, sizeof *reply);
  reply->parse = parse;
  parse->context = context;
  library_begin(parse);
  parse->parser.data = parse;
  forget_header(parse);
  parse->frame_bytes = 0;
}

size_t bus_http_reply_take(struct bus_http_reply *reply, const char *bytes, size_t size)
{
  struct bus_http_parse *parse = reply->parse;
  if (reply->state != BUS_HTTP_REPLY_MORE || size == 0)
    return 0;
  parse->mark = bytes;
  size_t taken = library_take(parse, bytes, size);
  if (reply->state == BUS_HTTP_REPLY_MORE)
    end_frame(parse, bytes + size);
  return taken;
}

void bus_http_reply_end(struct bus_http_reply *reply, bool broken)
{
  struct bus_http_parse *parse = reply->parse;
  if (reply->state != BUS_HTTP_REPLY_MORE)
    return;
  /* Nothing at all is no error to the libraries, and an interim reply alone is whole to them: only
   * take_message_end tells that the reply is. */
  if (!broken)
    library_end(parse);
  if (reply->state != BUS_HTTP_REPLY_WHOLE)
    reply->state = BUS_HTTP_REPLY_CUT;
  reply->kept = false;
}

void bus_http_reply_delete(struct bus_http_reply *reply)
{
  if (reply)
    free(reply->parse);
}
