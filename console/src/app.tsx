import { useEffect } from "preact/hooks";

import type { Me } from "./base/api";
import { Failure, get, refused } from "./base/http";
import { startListening } from "./base/live";
import { forget } from "./base/query";
import { parts, path } from "./base/route";
import { me } from "./base/system";
import { MapScreen } from "./map/screen";
import { ContractScreen, ContractsScreen } from "./screens/contracts";
import { DeadGroupScreen, DeadScreen } from "./screens/dead";
import { EventScreen } from "./screens/event";
import { EventsScreen } from "./screens/events";
import { GroupScreen } from "./screens/group";
import { GroupsScreen } from "./screens/groups";
import { LabScreen } from "./screens/lab";
import { LetterScreen } from "./screens/letter";
import { NowhereScreen, SignedOut } from "./screens/nowhere";
import { OperationsScreen } from "./screens/operations";
import { OverviewScreen } from "./screens/overview";
import { PublishScreen } from "./screens/publish";
import { ServicesScreen } from "./screens/services";
import { TopicScreen, TopicsScreen } from "./screens/topics";
import { TraceScreen, TracesScreen } from "./screens/trace";
import { Shell } from "./shell/shell";
import { Skeleton } from "./ui/states";

const RETRY = 2000;

export function App() {
  useEffect(() => {
    let over = false;
    let stop: (() => void) | undefined;
    const enter = async () => {
      try {
        me.value = await get<Me>("/api/me");
        refused.value = null;
        stop = startListening();
      } catch (error) {
        if (over) return;
        refused.value = error instanceof Failure ? error : new Failure(0, String(error), "/api/me");
        if (refused.value.unreachable) setTimeout(() => void enter(), RETRY);
      }
    };
    void enter();
    return () => {
      over = true;
      stop?.();
    };
  }, []);
  useEffect(() => {
    if (refused.value) forget();
  }, [refused.value]);
  if (refused.value) return <SignedOut failure={refused.value} />;
  if (!me.value) return <Skeleton lines={3} />;
  return (
    <Shell>
      <Screen />
    </Shell>
  );
}

/** The screen of a path. Paths are links that people keep: a new one may be added, and none may change. */
function Screen() {
  const [first = "", ...rest] = parts(path.value);
  const name = rest.join("/");
  const title = [name, first || "overview"].filter(Boolean).join(" · ");
  useEffect(() => {
    document.title = `${title} · ${me.value?.name || "Millstream"}`;
  }, [title]);
  switch (first) {
    case "":
      return <OverviewScreen />;
    case "map":
      return <MapScreen />;
    case "topics":
      return name ? <TopicScreen name={name} key={name} /> : <TopicsScreen />;
    case "events":
      return name ? <EventScreen id={name} key={name} /> : <EventsScreen />;
    case "trace":
      return name ? <TraceScreen what={name} key={name} /> : <TracesScreen />;
    case "groups":
      return name ? <GroupScreen name={name} key={name} /> : <GroupsScreen />;
    case "dead":
      if (name === "letter") return <LetterScreen />;
      return name ? <DeadGroupScreen fingerprint={name} key={name} /> : <DeadScreen />;
    case "contracts":
      return name ? <ContractScreen name={name} key={name} /> : <ContractsScreen />;
    case "services":
      return <ServicesScreen />;
    case "publish":
      return <PublishScreen />;
    case "lab":
      return <LabScreen />;
    case "operations":
      return <OperationsScreen />;
    default:
      return <NowhereScreen />;
  }
}
