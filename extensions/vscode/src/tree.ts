import * as vscode from 'vscode';
import type { RequestSeen } from './protocol';
import type { Running, Sessions } from './sessions';
import { short } from './status';
import { duration, requestLine, size } from './traffic';

type Kind = 'ports' | 'requests' | 'connections' | 'outgoing' | 'files';

export type Node =
	| { kind: 'session'; id: string }
	| { kind: 'group'; id: string; group: Kind }
	| { kind: 'leaf'; key: string; label: string; description: string; icon: string; request?: { session: string; id: number } };

const groups: Record<Kind, { label: string; icon: string }> = {
	ports: { label: 'Ports', icon: 'plug' },
	requests: { label: 'Requests', icon: 'arrow-down' },
	connections: { label: 'Connections', icon: 'arrow-down' },
	outgoing: { label: 'Outgoing', icon: 'arrow-up' },
	files: { label: "Target's files", icon: 'file' },
};

const redraw = 250; // ms between two changes of the view

/** The sidebar's view of the sessions and what goes through them. */
export class SessionTree implements vscode.TreeDataProvider<Node> {
	private readonly changed = new vscode.EventEmitter<undefined>();
	readonly onDidChangeTreeData = this.changed.event;
	private timer?: NodeJS.Timeout;
	private readonly shown = new Map<string, Node>(); // a node stays the same object, so that it stays open

	constructor(private readonly sessions: Sessions) {
		const soon = () => {
			this.timer ??= setTimeout(() => {
				this.timer = undefined;
				this.changed.fire(undefined);
			}, redraw);
		};
		sessions.onChange(soon);
		sessions.onTraffic(soon);
	}

	dispose(): void {
		clearTimeout(this.timer);
		this.changed.dispose();
	}

	getChildren(node?: Node): Node[] {
		if (!node) return this.sessions.list.map((r) => this.same(`s ${r.info.id}`, { kind: 'session', id: r.info.id }));
		const r = node.kind === 'leaf' ? undefined : this.sessions.get(node.id);
		if (!r) return [];
		if (node.kind === 'session') {
			return (Object.keys(groups) as Kind[]).filter((g) => this.leaves(r, g).length > 0)
				.map((group) => this.same(`g ${r.info.id} ${group}`, { kind: 'group', id: r.info.id, group }));
		}
		return node.kind === 'group' ? this.leaves(r, node.group) : [];
	}

	getTreeItem(node: Node): vscode.TreeItem {
		const { Collapsed, Expanded, None } = vscode.TreeItemCollapsibleState;
		if (node.kind === 'leaf') {
			const item = new vscode.TreeItem(node.label, None);
			item.id = node.key;
			item.description = node.description;
			item.tooltip = `${node.label}\n${node.description}`;
			item.iconPath = new vscode.ThemeIcon(node.icon);
			item.accessibilityInformation = { label: `${node.label}, ${node.description}` };
			if (node.request) {
				item.contextValue = 'request';
				item.command = { command: 'mirrord.showRequest', title: 'Show Request', arguments: [node] };
			}
			return item;
		}
		const r = this.sessions.get(node.id);
		if (node.kind === 'session') {
			const item = new vscode.TreeItem(r ? short(r.info.target) : node.id, Expanded);
			item.id = `s ${node.id}`;
			item.iconPath = new vscode.ThemeIcon(r?.own?.paused.size || r?.traffic.stopped.size ? 'debug-pause' : 'broadcast');
			item.description = r ? describe(r) : '';
			item.tooltip = r?.info.target ?? '';
			item.contextValue = ['session', r?.own ? 'own' : '', r?.traffic.once ?? ''].filter(Boolean).join(' ');
			item.accessibilityInformation = { label: `session with ${r?.info.target ?? node.id}, ${r ? describe(r) : ''}` };
			return item;
		}
		const count = r ? this.leaves(r, node.group).length : 0;
		const item = new vscode.TreeItem(groups[node.group].label, node.group === 'files' || node.group === 'outgoing' ? Collapsed : Expanded);
		item.id = `g ${node.id} ${node.group}`;
		item.iconPath = new vscode.ThemeIcon(groups[node.group].icon);
		item.description = String(count);
		item.accessibilityInformation = { label: `${groups[node.group].label}, ${count}` };
		return item;
	}

	private leaves(r: Running, group: Kind): (Node & { kind: 'leaf' })[] {
		const key = (k: string | number) => `l ${r.info.id} ${group} ${k}`;
		const leaf = (k: string | number, label: string, description: string, icon: string, request?: number): Node & { kind: 'leaf' } =>
			({ kind: 'leaf', key: key(k), label, description, icon, ...(request !== undefined ? { request: { session: r.info.id, id: request } } : {}) });
		const t = r.traffic;
		switch (group) {
			case 'ports':
				return [...t.ports].sort(([a], [b]) => a - b).map(([port, p]) =>
					leaf(port, String(port), `${p.mirror ? 'mirrored' : 'stolen'}${p.filter ? ` by ${p.filter}` : ''}${p.waiting ? ', waiting for the program' : ''}`, p.mirror ? 'mirror' : 'arrow-swap'));
			case 'requests':
				return newest(t.requests).map((q) => {
					const { label, description } = requestLine(q);
					return leaf(q.id, label, description, icon(q), q.id);
				});
			case 'connections':
				return newest(t.connections).map((c) => leaf(c.id, c.peer,
					`to port ${c.port} · ${c.open ? 'open' : 'ended'} · ${size(c.bytesIn)} in, ${size(c.bytesOut)} out`, 'plug'));
			case 'outgoing':
				return newest(t.outgoing).map((o) => leaf(o.id, o.name ? `${o.name} (${o.address})` : o.address,
					[o.proto, o.error ?? (o.ended ? 'ended' : 'open'), duration(o.ms)].join(' · '), o.error ? 'error' : 'plug'));
			case 'files':
				return newest(t.files).map((f) => leaf(f.path, f.path,
					[f.op, f.write ? 'for writing' : '', f.error ?? '', f.count && f.count > 1 ? `${f.count} times` : ''].filter(Boolean).join(' · '), f.op === 'list' ? 'folder' : 'file'));
		}
	}

	private same(key: string, node: Node): Node {
		const known = this.shown.get(key);
		if (known) return known;
		this.shown.set(key, node);
		return node;
	}
}

function newest<K, T>(m: Map<K, T>): T[] { return [...m.values()].reverse(); }

function icon(q: RequestSeen): string {
	return q.error && !q.status ? 'error' : !q.status ? 'loading~spin' : q.status >= 500 ? 'error' : q.status >= 400 ? 'warning' : 'pass';
}

const once: Record<string, string> = { armed: 'waits for one request', caught: 'has its one request' };

function describe(r: Running): string {
	const n = r.traffic.launchers;
	const namespace = / in (\S+)$/.exec(r.info.target)?.[1];
	if (r.own?.left) return [namespace, 'ends soon, unless it is started again'].filter(Boolean).join(' · ');
	return [namespace, r.own ? '' : 'of another window or terminal', n === 1 ? '1 program' : n > 1 ? `${n} programs` : 'no program yet',
		r.own?.paused.size || r.traffic.stopped.size ? 'stopped at a breakpoint' : '', once[r.traffic.once ?? ''], r.traffic.missed ? 'some traffic was not seen' : ''].filter(Boolean).join(' · ');
}
