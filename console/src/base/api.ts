/**
 * What the server says: the shapes of every answer below /api.
 *
 * Times are seconds since 1970. Positions and counts that can exceed 2^53 are text. What is
 * not known is null.
 */

export type Role = "viewer" | "operator" | "admin";

export interface Me {
  role: Role;
  read_only: boolean;
  name: string;
  now: number;
  /** Whether it watches a demo that takes faults. */
  lab?: boolean;
}

/** A demo, and what was done to it. */
export interface LabState {
  rate: number;
  services: { name: string; pid: number }[];
  figures: { orders: number; published: number; waiting: number; dead_letters: number };
  kills: number;
  duplicates: number;
  poison: number;
  mode: string;
}

/** What an auditor found that reads only databases, mails and the log. */
export interface Proof {
  ok: boolean;
  mode: string;
  counts: Record<string, number>;
  invariants: { name: string; ok: boolean; checked: number; violations: number; evidence: string[] }[];
}

export type GroupState =
  | "unknown"
  | "paused"
  | "replaying"
  | "stopped"
  | "rewound"
  | "stalled"
  | "behind"
  | "catching up"
  | "idle"
  | "caught up";

export interface Verdict {
  state: GroupState;
  rule: number;
  sentence: string;
  severity: number;
}

export interface Group {
  name: string;
  app: string;
  verdict: Verdict;
  lag: number | null;
  age: number | null;
  members: number;
  drained_in: number | null;
  topics: string[];
  paused: boolean;
  instances: number;
  handled_per_second: number;
  failed: number;
  duplicates: number;
  mean_work: number | null;
  p50_work: number | null;
  p95_work: number | null;
  p95_latency: number | null;
  /** Of so many deliveries one is told one by one. */
  one_in: number;
  parked: number;
  dead: number;
  troubles: string[];
  note?: string;
}

export interface Sample {
  at: number;
  position: string | null;
  lag: number | null;
}

export interface PartitionStanding {
  topic: string;
  partition: number;
  position: string | null;
  head: string | null;
  quality: "exact" | "estimated" | "unknown";
  lag: number | null;
  oldest: number | null;
  owner: string | null;
  verdict: Verdict | null;
  samples: Sample[];
}

export interface Handler {
  app: string;
  name: string;
  group: string;
  summary: string;
  location: string;
  types: string[];
  topics: string[];
  publishes: string[];
  delivery: string;
  ordered: boolean;
  concurrency: number;
  timeout: number;
  attempts: number;
  wants: string;
}

export interface Process {
  process: string;
  app: string;
  host: string;
  pid: number;
  version: string;
  started: number;
  seen: number;
  alive: boolean;
  stopped: boolean;
  troubles: string[];
  paused: string[];
  outbox: number;
  store: string;
  /** Topics that no group reads, and how many events this process has published there. */
  unread: [string, number][];
}

export type ParkedState = "retry" | "queued" | "dead" | "discarded";

export interface Parked {
  group: string;
  source: string;
  id: string;
  handler: string;
  type: string;
  key: string | null;
  time: number;
  state: ParkedState;
  attempts: number;
  due: number;
  first: number | null;
  last: number | null;
  error: string;
  reason: string;
  fingerprint: string;
  /** When it came into this state. */
  at: number;
}

export type OperationKind = "pause" | "resume" | "redrive" | "discard" | "restore" | "repair" | "reset";
export type OperationStatus = "sent" | "accepted" | "done" | "refused" | "failed";

export interface Operation {
  id: string;
  kind: OperationKind;
  group: string;
  by: string;
  reason: string;
  at: number;
  status: OperationStatus;
  detail: string;
  answered: number | null;
  /** Whether the first event went alone, and the others only once it was handled. */
  canary: boolean;
  /** What became of its events so far; null where that is not followed. `accepted` becomes `done` when all have come to an end. */
  progress: { asked: number; handled: number | null; failed: number | null; discarded: number | null };
  /** The first of them; all are in `/api/operations/{id}`. */
  events: [source: string, id: string][];
}

export interface GroupDetail extends Group {
  partitions: PartitionStanding[];
  handlers: Handler[];
  processes: Process[];
  waiting: Parked[];
  discarded: Parked[];
  operations: Operation[];
  history: Standing[];
}

/** Where a group stood at a time. */
export interface Standing {
  at: number;
  lag: number | null;
  age: number | null;
  members: number;
  handled_per_second: number;
  failed: number;
  state: GroupState;
}

export interface ResetRow {
  topic: string;
  partition: number;
  before: string | null;
  after: string;
  events: number;
  again: number;
}

export interface MapNode {
  id: string;
  kind: "handler" | "event" | "producer";
  label: string;
  service: string | null;
  group?: string;
  version?: number | null;
  location?: string;
  summary?: string;
  health?: Verdict;
  dead?: number;
  lag?: number | null;
  age?: number | null;
}

export interface MapEdge {
  from: string;
  to: string;
  declared: boolean;
  observed: boolean;
  /** Per second, over the window. */
  rate: number;
  failed: number;
  duplicates: number;
  /** Seconds, summed over the window. */
  worked: number;
  waited: number;
  /** From being published to being handled, of those that were told one by one. */
  p50: number | null;
  p95: number | null;
  one_in: number;
}

export interface Service {
  name: string;
  alive: boolean;
  instances: number;
}

export interface Step {
  from: string;
  to: string;
  at: number;
  kind?: AttemptKind;
  id: string;
}

export interface FlowMap {
  as_of: number;
  window: number;
  /** Seconds that rates are really taken over. */
  span: number;
  nodes: MapNode[];
  edges: MapEdge[];
  services: Service[];
  path: Step[] | null;
}

export interface Event {
  id: string;
  source: string;
  type: string;
  topic: string;
  key: string | null;
  time: number;
  version: number;
  correlation: string;
  causation: string | null;
  /** `group/attempt` of the handling that published it. */
  by: string | null;
  partition: number | null;
  position: string | null;
}

export type AttemptKind = "handled" | "retry" | "parked" | "queued" | "duplicate" | "discarded" | "skipped";

export interface Attempt {
  group: string;
  handler: string;
  id: string;
  source: string;
  kind: AttemptKind;
  attempt: number;
  /** When it was committed. */
  at: number;
  waited: number;
  worked: number;
  error: string;
  process: string;
}

export type Fate = "handled" | "waiting" | "retrying" | "queued" | "dead" | "duplicate" | "discarded" | "skipped" | "passed" | "unknown";

export interface Delivery {
  group: string;
  state: Fate;
  attempts: Attempt[];
  duplicates: number;
}

export interface ListedEvent extends Event {
  /** For `before`. */
  n: number;
  outcomes: [group: string, kind: AttemptKind][];
}

export interface EventPage {
  events: ListedEvent[];
  more: boolean;
  /** Where to go on, for `before`. */
  next: number | null;
  scanned: number;
  total: number;
  /** Whether all were looked at, or an index named those that can fit. */
  by: "scan" | "index";
  /** Back to when everything was looked at. */
  back_to: number | null;
}

/** Something that was found in the body of an event, in the broker's history. */
export interface FoundBody {
  id: string | null;
  source: string | null;
  type: string | null;
  key: string | null;
  time: number | null;
  topic: string;
  partition: number;
  position: string;
  excerpt: string;
  size: number;
}

/** `/api/bodies/{topic}?text=&cursor=`: a bounded step of a search. */
export interface BodyPage {
  events: FoundBody[];
  scanned: number;
  total: string;
  left: string;
  more: boolean;
  /** The `cursor` to go on with. */
  next: string | null;
  back_to: number | null;
}

/** What an event carries; of a large one only the beginning, as bytes. Its size is that of the whole. */
export type Body = { kind: "json"; text: string; size: number } | { kind: "bytes"; base64: string; size: number };

export interface EventDetail extends Event {
  deliveries: Delivery[];
  attempts: Attempt[];
  payload: Body | null;
  envelope?: {
    traceparent: string | null;
    content_type: string | null;
    schema: string | null;
    extensions: Record<string, unknown> | null;
  };
}

export interface TracedEvent extends Event {
  deliveries: Delivery[];
}

export interface Trace {
  correlation: string;
  events: TracedEvent[];
  steps: Step[];
  sentence: string;
  cut: boolean;
}

export interface Found {
  events: Event[];
  groups: string[];
  topics: string[];
}

export interface Topic {
  name: string;
  partitions: number | null;
  /** Null where the broker keeps no history. */
  events: string | null;
  published: string | null;
  groups: string[];
  per_second: number;
  retain_seconds: number | null;
  retain_bytes: string | null;
}

export interface DeadGroup {
  fingerprint: string;
  group: string;
  type: string;
  error: string;
  count: number;
  keys: number;
  first: number | null;
  last: number | null;
  reason: string;
}

export type JsonSchema = { [keyword: string]: unknown };

export interface Contract {
  app: string;
  name: string;
  version: number;
  key: string | null;
  topic: string;
  kind: "event" | "command";
  summary: string;
  schema: JsonSchema;
}

export interface Letter extends Parked {
  topic: string;
  partition: number;
  position: string;
  version: number;
  correlation: string | null;
  stack: string;
  data: Body;
  /** The body's whole size; `data` ends at 64 KiB. */
  size: number;
  /** Later events of its key that wait behind it. */
  blocked: number;
  attempts_made: Attempt[];
  contract: Contract | null;
}

export interface Attention {
  what: string;
  kind: "group" | "dead";
  state: GroupState | "dead";
  sentence: string;
}

export interface Rate {
  at: number;
  kind: string;
  count: number;
  /** So many seconds are counted together. */
  step: number;
}

export interface Overview {
  sentence: string;
  attention: Attention[];
  published_per_second: number;
  handled_per_second: number;
  mean_latency: number | null;
  p95_latency: number | null;
  one_in: number;
  oldest: number | null;
  dead: number;
  groups: Group[];
  processes: Process[];
  rates: Rate[];
  operations: Operation[];
  trouble: string;
}

export interface OperationRequest {
  kind: OperationKind;
  group: string;
  reason?: string;
  events?: [source: string, id: string][];
  data?: string;
  to?: string;
  effects?: boolean;
  /** All dead letters of the group that look alike, instead of `events`. */
  fingerprint?: string;
  /** For `redrive`: the first goes alone, the others only if it was handled. */
  canary?: boolean;
}

export interface PublishRequest {
  type: string;
  data: string;
  key?: string;
  count?: number;
}

/** One real delivery or publication, as it has just happened. */
export interface Dot {
  from: string;
  to: string;
  kind: AttemptKind | "published";
  id: string;
  key: string | null;
  correlation: string;
  took: number;
}

export interface Pulse {
  at: number;
  dots: Dot[];
  /** How many more there were, which are not told. */
  missed: number;
}
