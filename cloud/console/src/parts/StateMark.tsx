import { strange, type Mark } from "./marks";
import css from "./parts.module.css";

/** The shape alone; its meaning must stand beside it as text. */
export function Shape({ mark, size = 12 }: { mark: Mark; size?: number }) {
  return (
    <svg width={size} height={size} viewBox="0 0 12 12" aria-hidden="true" className={css.shape}>
      {mark.strokes.map((s, i) => (
        <path
          key={i}
          d={s.d}
          fill={s.fill ? `var(--${s.fill})` : "none"}
          stroke={s.stroke ? `var(--${s.stroke})` : "none"}
          strokeWidth={1.6}
          strokeDasharray={s.dash ? "2 1.6" : undefined}
          strokeLinejoin="round"
          strokeLinecap="round"
        />
      ))}
    </svg>
  );
}

/** Shape and word of a state; marks is the table the state is looked up in. */
export function StateMark<S extends string>({ state, marks }: { state: S; marks: Record<S, Mark> }) {
  const mark = marks[state] ?? strange(state);
  return (
    <span className={css.state} data-alarm={mark.alarm} title={mark.meaning}>
      <Shape mark={mark} />
      {mark.label}
    </span>
  );
}
