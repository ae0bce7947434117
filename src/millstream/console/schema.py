"""The read model's tables: what facts are folded into, laid out so that every question is an index away.

Names (types, topics, groups, handlers, processes, sources) are rows of `name`, and everywhere
else their numbers. Events are numbered in the order in which they were heard of; what was
tried with them refers to that number, so that what is oldest is removed without a search.
No index holds what another one can say: events on the topic of their type's name are found by
their type, and the first of a correlation by its id.
"""

#: Read models of another number are deleted, and made anew from the facts.
VERSION = 4

#: What can become of an attempt; a row holds its index. The order is part of the tables.
KINDS: tuple[str, ...] = ("handled", "retry", "parked", "queued", "duplicate", "skipped", "discarded")
#: Those that are failures.
FAILURES = (KINDS.index("retry"), KINDS.index("parked"))

#: Keys are indexed apart for each so many events (a power of two): keys come in any order, and an index of all of them would be
#: written to in as many places as there are events in a batch.
ERA = 17

#: Flows are added up in steps of so many seconds, and each step is kept for so long.
STEPS = {1: 3600, 10: 6 * 3600, 60: 24 * 3600, 900: 7 * 24 * 3600}
#: A question about flows reads at most so many steps.
MOST_STEPS = 100

#: How long single events are kept, in seconds, and how many there may be.
KEEP = 24 * 3600.0
MOST_EVENTS = 2_000_000
#: Where groups stand is noted every so many seconds.
STANDINGS = 10.0
#: How long a discarded dead letter can be restored, in seconds.
KEEP_DISCARDED = 7 * 24 * 3600.0

SCHEMA = f"""
create table if not exists read_model(version integer primary key) without rowid;
insert or ignore into read_model values({VERSION});

create table if not exists name(n integer primary key, text text not null unique);

create table if not exists process(
  process text primary key, app text not null, host text not null default '', pid integer not null default 0,
  version text not null default '', broker text not null default '', store text not null default '',
  started integer not null default 0, seen integer not null, stopping integer not null default 0,
  troubles text not null default '[]', paused text not null default '[]', outbox integer not null default 0,
  unread text not null default '[]') without rowid;
create table if not exists handler(
  app text not null, name text not null, grp text not null, body text not null, at integer not null, primary key(app, name))
  without rowid;
create table if not exists contract(name text primary key, version integer not null, app text not null, body text not null) without rowid;

create table if not exists event(
  n integer primary key, id text not null, source integer not null, type integer not null, topic integer not null, key text,
  time integer not null, version integer not null, correlation text not null, causation text, by integer, heard integer not null,
  partition integer, position integer);
create unique index if not exists event_id on event(id, source);
create index if not exists event_key on event(n >> {ERA}, key) where key is not null;
create index if not exists event_correlation on event(correlation) where correlation<>id;
create index if not exists event_topic on event(topic) where topic<>type;
create index if not exists event_type on event(type);

create table if not exists attempt(
  event integer not null, seq integer not null, grp integer not null, handler integer not null, kind integer not null,
  attempt integer not null, at integer not null, waited real not null, worked real not null, error text, process integer not null,
  primary key(event, seq)) without rowid;
create index if not exists attempt_failed on attempt(event) where kind in ({FAILURES[0]}, {FAILURES[1]});

create table if not exists parked(
  grp text not null, source text not null, id text not null, handler text not null, type text not null, key text,
  time integer not null, topic text not null, partition integer not null, position integer not null, version integer not null,
  correlation text, state text not null, attempts integer not null, due integer not null, first_failure integer, last_failure integer,
  error text not null, reason text not null, size integer not null, fingerprint text not null, at integer not null,
  primary key(grp, source, id)) without rowid;
create index if not exists parked_fingerprint on parked(state, fingerprint);
create index if not exists parked_state on parked(grp, state, last_failure);
create index if not exists parked_key on parked(grp, topic, key, state);
create index if not exists parked_event on parked(id, source);
create table if not exists letter(
  grp text not null, source text not null, id text not null, stack text not null, data blob not null, primary key(grp, source, id));

create table if not exists edge(
  n integer primary key, origin text not null, target text not null, kind text not null, unique(origin, target, kind));
create table if not exists flow(
  step integer not null, at integer not null, edge integer not null, count real not null, told integer not null,
  worked real not null, waited real not null, primary key(step, at, edge)) without rowid;
create table if not exists total(
  step integer not null, at integer not null, kind text not null, count real not null, worked real not null, waited real not null,
  primary key(step, at, kind)) without rowid;

create table if not exists standing(
  grp text not null, at integer not null, lag integer, age real, members integer not null, handled real not null, failed integer not null,
  state text not null, primary key(grp, at)) without rowid;

create table if not exists operation(
  id text primary key, kind text not null, grp text not null, by text not null, reason text not null, at integer not null,
  status text not null, detail text not null, answered integer, body text not null) without rowid;
create index if not exists operation_at on operation(at);
create index if not exists operation_group on operation(grp, at);

create table if not exists asked(
  id text primary key, kind text not null, grp text not null, by text not null, reason text not null, at integer not null,
  status text not null, detail text not null, answered integer, canary integer not null, data blob not null, positions text not null,
  effects integer not null, wanted integer not null, handled integer not null default 0, failed integer not null default 0,
  discarded integer not null default 0) without rowid;
create index if not exists asked_open on asked(at) where status in ('sent', 'accepted');
create index if not exists asked_at on asked(at);
create table if not exists part(
  id text primary key, asked text not null, number integer not null, sent integer, events text not null) without rowid;
create index if not exists part_asked on part(asked, number);
"""
