// The rows of the list of targets, without vscode.
import type { Target } from './protocol';

export const targetless = 'targetless';

export type Row =
	| { kind: 'separator'; label: string }
	| { kind: 'target'; label: string; description: string; path: string; available: boolean }
	| { kind: 'namespace' | 'context' | 'incoming'; label: string; description: string };

export interface Shown {
	targets: Target[];
	hidden: string[]; // kinds that the user may not list
	last?: string; // chosen the last time
	namespace: string;
	context: string;
	steal: boolean;
	fixedSteal: boolean; // by the configuration
}

const groups: [kind: string, title: string][] = [
	['deployment', 'Deployments'],
	['statefulset', 'Stateful sets'],
	['rollout', 'Rollouts'],
	['pod', 'Pods'],
];

/** The last target first, then kind by kind, in each what is available first; last what can be switched. */
export function rows(s: Shown): Row[] {
	const out: Row[] = [];
	const others = s.targets.flatMap((t) => (t.containers ?? []).slice(1).map((c) => ({ ...t, path: `${t.path}/container/${c}` })));
	const last = [...s.targets, ...others].find((t) => t.path === s.last);
	if (last || s.last === targetless) {
		out.push({ kind: 'separator', label: 'Last used' }, last ? row(last) : noTarget());
	}
	const rest = new Map<string, Target[]>();
	for (const t of s.targets) {
		const kind = kindOf(t.path);
		if (t === last) continue;
		const list = rest.get(kind);
		if (list) list.push(t);
		else rest.set(kind, [t]);
	}
	const known = groups.map(([kind]) => kind);
	for (const kind of [...known, ...[...rest.keys()].filter((k) => !known.includes(k))]) {
		const list = rest.get(kind);
		if (!list) continue;
		out.push({ kind: 'separator', label: groups.find(([k]) => k === kind)?.[1] ?? kind });
		out.push(...list.filter((t) => t.available).map(row), ...list.filter((t) => !t.available).map(row));
	}
	const more = others.filter((t) => t !== last);
	if (more.length > 0) {
		out.push({ kind: 'separator', label: 'Other containers' }, ...more.map(row));
	}
	const missing = s.hidden.length > 0 ? ` (you may not list ${s.hidden.join(' and ')})` : '';
	out.push({ kind: 'separator', label: `Without a pod, and switches${missing}` });
	if (s.last !== targetless) out.push(noTarget());
	out.push(
		{ kind: 'namespace', label: '$(layers) Switch namespace…', description: s.namespace },
		{ kind: 'context', label: '$(server-environment) Switch context…', description: s.context },
	);
	if (!s.fixedSteal) {
		out.push({
			kind: 'incoming',
			label: s.steal ? '$(arrow-swap) Incoming: steal' : '$(mirror) Incoming: mirror',
			description: s.steal ? 'the program gets the connections; choose to get a copy' : 'the program gets a copy; choose to get the connections',
		});
	}
	return out;
}

function kindOf(path: string): string { return path.slice(0, path.indexOf('/')); }

function row(t: Target): Row {
	const container = t.containers?.[0];
	const description = t.available
		? (t.containers?.length ?? 0) > 1 && !t.path.includes('/container/') ? `container ${container}` : ''
		: t.reason ?? 'not available';
	return { kind: 'target', label: `${t.available ? '$(target)' : '$(circle-slash)'} ${t.path}`, description, path: t.path, available: t.available };
}

function noTarget(): Row {
	return { kind: 'target', label: `$(globe) ${targetless}`, description: "the cluster's names and network, no pod's", path: targetless, available: true };
}
