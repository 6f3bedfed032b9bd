import { createContext, useContext } from "react";
import type { Schemas } from "../api/client";

export const SessionContext = createContext<Schemas["Session"] | undefined>(undefined);

/** Who is logged in. Only below SessionGate. */
export function useSession(): Schemas["Session"] {
  const s = useContext(SessionContext);
  if (!s) throw new Error("useSession outside SessionGate");
  return s;
}

const order: Schemas["Role"][] = ["viewer", "operator", "approver", "admin"];

/** undefined when role may do what needs the other; otherwise a sentence that says why not. */
export function forbidden(role: Schemas["Role"], needs: Schemas["Role"]): string | undefined {
  return order.indexOf(role) >= order.indexOf(needs) ? undefined : `Your role is ${role}; this needs ${needs}.`;
}
