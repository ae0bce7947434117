import type { IconName } from "../ui/icon";

export interface Entry {
  href: string;
  label: string;
  icon: IconName;
  /** What follows `g`. */
  key?: string;
}

export const LOOK: Entry[] = [
  { href: "/", label: "Overview", icon: "overview", key: "o" },
  { href: "/map", label: "Flow map", icon: "map", key: "m" },
  { href: "/topics", label: "Topics", icon: "topics" },
  { href: "/events", label: "Events", icon: "events", key: "e" },
  { href: "/trace", label: "Traces", icon: "trace", key: "t" },
  { href: "/groups", label: "Groups", icon: "groups", key: "g" },
  { href: "/dead", label: "Dead letters", icon: "dead", key: "d" },
  { href: "/contracts", label: "Contracts", icon: "contracts", key: "k" },
  { href: "/services", label: "Services", icon: "services", key: "s" },
];

export const ACT: Entry[] = [
  { href: "/publish", label: "Publish", icon: "publish", key: "p" },
  { href: "/operations", label: "Operations", icon: "operations", key: "a" },
];

/** Only where the system is a demo that takes faults. */
export const LAB: Entry = { href: "/lab", label: "Lab", icon: "lab", key: "l" };

/** The four that a phone has room for. */
export const SHORT: Entry[] = ["/", "/map", "/groups", "/dead"].map((href) => LOOK.find((entry) => entry.href === href) as Entry);

/** Whether a place belongs to an entry. */
export function isAt(path: string, entry: Entry): boolean {
  return entry.href === "/" ? path === "/" : path === entry.href || path.startsWith(`${entry.href}/`);
}
