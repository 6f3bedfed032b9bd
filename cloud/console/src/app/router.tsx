import { createRootRoute, createRoute, createRouter, lazyRouteComponent, Link } from "@tanstack/react-router";
import { Head } from "../parts/page";
import { Shell } from "./Shell";

const root = createRootRoute({
  component: Shell,
  notFoundComponent: () => (
    <>
      <Head title="Not here" sentence="There is no such page." />
      <Link to="/">To the present state</Link>
    </>
  ),
});

const text = (x: unknown) => (typeof x === "string" && x !== "" ? x : undefined);

const whole = (x: unknown) => (typeof x === "number" && Number.isInteger(x) && x > 0 ? x : undefined);

const now = createRoute({ getParentRoute: () => root, path: "/", component: lazyRouteComponent(() => import("../pages/Now"), "NowPage") });
const fleet = createRoute({
  getParentRoute: () => root,
  path: "/fleet",
  validateSearch: (s): { selector?: string; view?: "table" } => ({ selector: text(s.selector), view: s.view === "table" ? "table" : undefined }),
  component: lazyRouteComponent(() => import("../pages/Fleet"), "FleetPage"),
});
const device = createRoute({ getParentRoute: () => root, path: "/fleet/$site/$node", component: lazyRouteComponent(() => import("../pages/Device"), "DevicePage") });
const rollouts = createRoute({ getParentRoute: () => root, path: "/rollouts", component: lazyRouteComponent(() => import("../pages/Rollouts"), "RolloutsPage") });
const start = createRoute({
  getParentRoute: () => root,
  path: "/rollouts/new",
  validateSearch: (s): { release?: string; policy?: string } => ({ release: text(s.release), policy: text(s.policy) }),
  component: lazyRouteComponent(() => import("../pages/StartRollout"), "StartRolloutPage"),
});
const rollout = createRoute({ getParentRoute: () => root, path: "/rollouts/$name", component: lazyRouteComponent(() => import("../pages/Rollout"), "RolloutPage") });
const models = createRoute({ getParentRoute: () => root, path: "/models", component: lazyRouteComponent(() => import("../pages/Models"), "ModelsPage") });
const version = createRoute({ getParentRoute: () => root, path: "/models/$name/$counter", component: lazyRouteComponent(() => import("../pages/ModelVersion"), "ModelVersionPage") });
const compare = createRoute({
  getParentRoute: () => root,
  path: "/models/$name/compare",
  validateSearch: (s): { a?: number; b?: number } => ({ a: whole(s.a), b: whole(s.b) }),
  component: lazyRouteComponent(() => import("../pages/Compare"), "ComparePage"),
});
const labels = createRoute({ getParentRoute: () => root, path: "/labels", component: lazyRouteComponent(() => import("../pages/Labels"), "LabelsPage") });
const policies = createRoute({ getParentRoute: () => root, path: "/policies", component: lazyRouteComponent(() => import("../pages/Policies"), "PoliciesPage") });
const newPolicy = createRoute({ getParentRoute: () => root, path: "/policies/new", component: lazyRouteComponent(() => import("../pages/Policy"), "NewPolicyPage") });
const policy = createRoute({ getParentRoute: () => root, path: "/policies/$name", component: lazyRouteComponent(() => import("../pages/Policy"), "PolicyPage") });
const training = createRoute({ getParentRoute: () => root, path: "/training", component: lazyRouteComponent(() => import("../pages/Training"), "TrainingPage") });
const run = createRoute({ getParentRoute: () => root, path: "/training/$name", component: lazyRouteComponent(() => import("../pages/TrainingRun"), "TrainingRunPage") });
const audit = createRoute({
  getParentRoute: () => root,
  path: "/audit",
  validateSearch: (s): { actor?: string; action?: string; subject?: string } => ({ actor: text(s.actor), action: text(s.action), subject: text(s.subject) }),
  component: lazyRouteComponent(() => import("../pages/Audit"), "AuditPage"),
});
const proof = createRoute({ getParentRoute: () => root, path: "/audit/$index", component: lazyRouteComponent(() => import("../pages/AuditEvent"), "AuditEventPage") });

export const router = createRouter({
  routeTree: root.addChildren([now, fleet, device, rollouts, start, rollout, policies, newPolicy, policy, models, compare, version, labels, training, run, audit, proof]),
  defaultPreload: "intent",
  scrollRestoration: false,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
