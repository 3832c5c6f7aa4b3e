/* signalbus.h: everything that a member or a reader of the bus needs, in one include. */
#ifndef SIGNALBUS_SIGNALBUS_H
#define SIGNALBUS_SIGNALBUS_H

#include "base.h"
#include "board.h"
#include "clock.h"
#include "doorbell.h"
#include "error.h"
#include "histogram.h"
#include "layout.h"
#include "llm_client.h"
#include "llm_record.h"
#include "log.h"
#include "loop.h"
#include "member.h"
#include "neighbour.h"
#include "notify.h"
#include "record.h"
#include "ring.h"
#include "subscription.h"
#include "symbols.h"

#endif
