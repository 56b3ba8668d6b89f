// What a session's events say of it, without vscode.
import type { ConnectionSeen, FileSeen, OutgoingSeen, RequestSeen, SessionEvent } from './protocol';

const kept = 200; // of each kind

/** A session as its events tell of it. */
export class Traffic {
	readonly ports = new Map<number, { mirror: boolean; waiting: boolean; filter?: string }>();
	readonly stopped = new Set<number>(); // processes at a breakpoint
	once?: 'armed' | 'caught'; // of a session that steals a single request: it waits for it, has it
	readonly requests = new Map<number, RequestSeen>();
	readonly connections = new Map<number, ConnectionSeen>();
	readonly outgoing = new Map<number, OutgoingSeen>();
	readonly files = new Map<string, FileSeen>();
	launchers = 0;
	missed = false; // more went through than could be told

	/** Takes an event; false: it changes nothing that is shown. */
	take(e: SessionEvent): boolean {
		switch (e.kind) {
			case 'started': // what is the case follows
				this.ports.clear();
				this.stopped.clear();
				this.once = undefined;
				this.launchers = 0;
				return true;
			case 'launched': this.launchers++; return true;
			case 'left': this.launchers = Math.max(0, this.launchers - 1); return true;
			case 'stopped': if (e.pid) this.stopped.add(e.pid); return true;
			case 'continued': case 'exited': if (e.pid) this.stopped.delete(e.pid); return true;
			case 'taken': if (e.port) this.ports.set(e.port, { mirror: e.mirror ?? false, waiting: false, ...(e.message ? { filter: e.message } : {}) }); return true;
			case 'waiting': {
				const p = e.port ? this.ports.get(e.port) : undefined;
				if (p) p.waiting = true;
				return true;
			}
			case 'givenBack': if (e.port) this.ports.delete(e.port); return true;
			case 'armed': case 'caught': this.once = e.kind; return true;
			case 'configured': this.once = undefined; return true; // what it is now follows
			case 'message': return true;
			case 'missed': return !this.missed && (this.missed = true);
			case 'request': case 'response': return merge(this.requests, e.request);
			case 'connection': return merge(this.connections, e.connection);
			case 'outgoing': return !isLookup(e.outgoing) && merge(this.outgoing, e.outgoing);
			case 'file': return e.file ? put(this.files, e.file.path, { ...e.file, count: (this.files.get(e.file.path)?.count ?? 0) + (e.file.count ?? 1) }) : false;
			default: return false;
		}
	}

	clear(): void {
		this.missed = false;
		for (const m of [this.requests, this.connections, this.outgoing, this.files]) m.clear();
	}
}

/** Names that are looked up would hide what they are looked up for. */
function isLookup(o: OutgoingSeen | undefined): boolean { return o?.proto === 'udp' && o.address.endsWith(':53'); }

function merge<T extends { id: number }>(m: Map<number, T>, seen: T | undefined): boolean {
	return seen ? put(m, seen.id, { ...m.get(seen.id), ...seen }) : false;
}

function put<K, T>(m: Map<K, T>, key: K, value: T): boolean {
	m.set(key, value);
	for (const oldest of m.keys()) {
		if (m.size <= kept) break;
		m.delete(oldest);
	}
	return true;
}

/** Whether an event is of what goes through a session. */
export function isTraffic(e: SessionEvent): boolean { return ['request', 'response', 'connection', 'outgoing', 'file', 'missed'].includes(e.kind); }

/** One line about a request. */
export function requestLine(r: RequestSeen): { label: string; description: string } {
	const status = r.status ? String(r.status) : r.error ? 'no answer' : '…';
	const took = r.ms === undefined ? '' : ` · ${duration(r.ms)}`;
	return { label: `${r.method ?? '?'} ${r.path ?? '?'}`, description: `${status}${took}${r.peer ? ` · ${r.peer}` : ''}` };
}

export function duration(ms: number): string {
	return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export function size(n: number): string {
	return n < 10_000 ? `${n} B` : n < 10_000_000 ? `${Math.round(n / 1024)} KiB` : `${Math.round(n / 1024 / 1024)} MiB`;
}
