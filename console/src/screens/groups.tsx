import type { Group } from "../base/api";
import { count, duration, rate, several } from "../base/format";
import { ofGroup } from "../base/health";
import { line } from "../base/inert";
import { useQuery } from "../base/query";
import { param, setParams, to } from "../base/route";
import { pastOf } from "../base/system";
import { Spark } from "../ui/chart";
import { useCut } from "../ui/cut";
import { State } from "../ui/glyph";
import { Cell, Head, Panel, SearchField } from "../ui/parts";
import { Blank, Ready } from "../ui/states";
import { Foreign } from "../ui/text";
import { says } from "./group";

type Column = "verdict" | "name" | "lag" | "age" | "rate" | "failed" | "dead";

const VALUE: Record<Column, (group: Group) => number | string> = {
  verdict: (group) => -group.verdict.severity,
  name: (group) => group.name,
  lag: (group) => -(group.lag ?? -1),
  age: (group) => -(group.age ?? -1),
  rate: (group) => -group.handled_per_second,
  failed: (group) => -group.failed,
  dead: (group) => -group.dead,
};

export function GroupsScreen() {
  const found = useQuery<Group[]>("/api/groups", 2);
  const filter = param("q") ?? "";
  const sort = (param("sort") ?? "verdict") as Column;
  return (
    <>
      <Head title="Groups" below="Who handles events, how far each is, and what to think of it. The worst come first." />
      <div class="filterbar">
        <SearchField name="q" label="Filter groups" placeholder="name, service, topic or state" value={filter} />
      </div>
      <Panel flush>
        <Ready query={found}>{(groups) => <Groups groups={groups} filter={filter} sort={sort in VALUE ? sort : "verdict"} />}</Ready>
      </Panel>
    </>
  );
}

function Groups({ groups, filter, sort }: { groups: Group[]; filter: string; sort: Column }) {
  if (!groups.length) {
    return (
      <Blank title="No group has a position yet" icon="groups" command={'@app.subscriber(OrderPlaced)\nasync def confirm(order: OrderPlaced) -> None: ...'}>
        A group is made when a service with a handler starts. The smallest handler:
      </Blank>
    );
  }
  const has = (text: string) => text.toLowerCase().includes(filter.toLowerCase());
  const shown = groups.filter((group) => [group.name, group.app, ofGroup(group.verdict.state).word, ...group.topics].some(has));
  if (!shown.length) {
    return (
      <Blank title={`None of ${several(groups.length, "group")} fits “${line(filter)}”`}>
        <button type="button" class="button" onClick={() => setParams({ q: null })}>
          Clear the filter
        </button>
      </Blank>
    );
  }
  return <GroupTable groups={shown} sort={sort} />;
}

function GroupTable({ groups, sort }: { groups: Group[]; sort: Column }) {
  const value = VALUE[sort];
  const sorted = [...groups].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x < y ? -1 : x > y ? 1 : a.name < b.name ? -1 : 1;
  });
  const Sort = ({ by, children, num }: { by: Column; children: string; num?: boolean }) => (
    <th class={num ? "num" : ""} aria-sort={sort === by ? (by === "name" ? "ascending" : "descending") : undefined}>
      <button type="button" class="sort" onClick={() => setParams({ sort: by === "verdict" ? null : by })}>
        {children}
        {sort === by ? " ▾" : ""}
      </button>
    </th>
  );
  const { shown: drawn, more } = useCut(sorted);
  return (
    <div class="scroll">
      <table class="cards">
        <caption class="sr">Groups with their verdicts</caption>
        <thead>
          <tr>
            <Sort by="verdict">Verdict</Sort>
            <Sort by="name">Group</Sort>
            <Sort by="lag" num>
              Waiting
            </Sort>
            <Sort by="age" num>
              Oldest
            </Sort>
            <th>Trend</th>
            <Sort by="rate" num>
              Handled
            </Sort>
            <th class="num">Work p95</th>
            <Sort by="failed" num>
              Failed, 1 m
            </Sort>
            <Sort by="dead" num>
              Dead
            </Sort>
          </tr>
        </thead>
        <tbody>
          {drawn.map((group) => (
            <Row key={group.name} group={group} />
          ))}
        </tbody>
      </table>
      {more}
    </div>
  );
}

function Row({ group }: { group: Group }) {
  return (
    <tr class="link" data-copy={group.name}>
      <td class="full">
        <State look={ofGroup(group.verdict.state)} />
        {says(group.verdict) && <div class="small dim">{line(group.verdict.sentence)}</div>}
      </td>
      <td class="full">
        <a class="row-link" href={to("groups", group.name)}>
          <Foreign text={group.name} />
        </a>
        <div class="small faint">
          {group.instances ? several(group.instances, "process", "processes") : "no process"}
          {group.note ? `, ${line(group.note)}` : ""}
        </div>
        {group.troubles.map((trouble) => (
          <div key={trouble} class="small tone-warn" style={{ color: "var(--tone)" }}>
            {line(trouble)}
          </div>
        ))}
      </td>
      <Cell label="Waiting" num>
        {count(group.lag)}
      </Cell>
      <Cell label="Oldest" num>
        {group.lag === 0 ? <span class="faint">nothing</span> : duration(group.age)}
      </Cell>
      <td style={{ width: "88px" }} data-label="Trend">
        <Spark values={pastOf(group.name, 90)?.lag ?? []} />
      </td>
      <Cell label="Handled" num>
        {rate(group.handled_per_second)}
      </Cell>
      <Cell label="Work p95" num>
        <span title={`in the middle ${duration(group.p50_work)}, on average ${duration(group.mean_work)}`}>{duration(group.p95_work)}</span>
      </Cell>
      <Cell label="Failed, 1 m" num>
        {count(group.failed)}
      </Cell>
      <Cell label="Dead" num>
        {group.dead ? <a href={`/dead?q=${encodeURIComponent(group.name)}`}>{count(group.dead)}</a> : count(0)}
      </Cell>
    </tr>
  );
}
