import * as vscode from 'vscode';
import { DaemonError, type Cancel, type Daemon } from './daemon';
import type { EventLog } from './eventlog';
import type { Notifier } from './notify';
import { code, type Session, type SessionEvent, type SessionStart } from './protocol';
import { isTraffic, Traffic } from './traffic';

/** How long a session outlives its last debug session: an editor that restarts one begins it anew, after a build maybe. */
const restartTime = 3 * 60_000; // ms
/** How long a session waits for its first debug session. */
const launchTime = 60_000; // ms

const never: Cancel = { isCancellationRequested: false, onCancellationRequested: () => ({ dispose() {} }) };

/** A session of this user's; own: this window has started it and holds it. */
export interface Running {
	info: Session;
	traffic: Traffic;
	own?: Own;
}

interface Own {
	key: string; // of the launch
	start: SessionStart;
	users: Set<string>; // debug sessions, tasks and terminals that run in it
	paused: Set<string>; // debug sessions that stand at a breakpoint
	timer?: NodeJS.Timeout; // ends it, when nobody uses it
	left?: boolean; // its last user has ended
}

/** The sessions, as the daemon's events tell of them. */
export class Sessions {
	private readonly all = new Map<string, Running>();
	private readonly changed = new vscode.EventEmitter<void>();
	readonly onChange = this.changed.event;
	private readonly passed = new vscode.EventEmitter<void>();
	/** Tells that something went through a session, which can be often. */
	readonly onTraffic = this.passed.event;
	private readonly ended = new vscode.EventEmitter<string>();
	/** Tells the id of a session that has ended. */
	readonly onEnd = this.ended.event;
	starting = 0;
	trouble = ''; // what went wrong last, until it was seen
	private listening?: vscode.CancellationTokenSource;
	private traffic?: boolean; // asked for, while listening

	constructor(
		private readonly daemon: Daemon, private readonly notify: Notifier, private readonly events: EventLog, private readonly log: vscode.LogOutputChannel,
	) {
		daemon.onEvent = (e) => this.event(e);
		daemon.onLost = (why) => void this.lost(why);
	}

	/** Those that something runs in, is about to, or has just run. */
	get list(): Running[] { return [...this.all.values()].filter((r) => r.own ?? r.traffic.launchers > 0); }
	/** This window's that are in use. */
	get own(): Running[] { return this.list.filter((r) => r.own && !r.own.left); }
	/** Those that had their single request. */
	get caught(): Running[] { return this.list.filter((r) => r.traffic.once === 'caught'); }
	get(id: string): Running | undefined { return this.all.get(id); }

	/** The session of a launch that runs. */
	of(key: string): Running | undefined { return this.list.find((r) => r.own?.key === key && r.own.users.size > 0); }

	/** Starts a session, which this window holds until nothing runs in it. */
	async start(key: string, p: SessionStart, report: (m: string) => void, cancel: Cancel): Promise<Running> {
		this.starting++;
		this.settle();
		this.changed.fire();
		try {
			const begun = Date.now();
			const info = await this.predecessor(key, p) ?? await this.daemon.start(p, report, cancel);
			this.log.info(`session ${info.id} with ${info.target}, after ${Date.now() - begun} ms`);
			const r: Running = this.all.get(info.id) ?? { info, traffic: new Traffic() };
			r.info = info;
			clearTimeout(r.own?.timer);
			r.own = { key, start: { ...p, id: info.id }, users: new Set(), paused: new Set() };
			this.all.set(info.id, r);
			this.expire(r, launchTime);
			if (cancel.isCancellationRequested) {
				await this.stop(info.id);
				throw new DaemonError(code.cancelled, 'cancelled');
			}
			for (const w of info.warnings ?? []) void this.notify.warn('warning', w);
			return r;
		} finally {
			this.starting--;
			this.changed.fire();
		}
	}

	/** The session that the launch had the last time, if it is still there and fits; else it ends, since it may hold a port. */
	private async predecessor(key: string, p: SessionStart): Promise<Session | undefined> {
		const same = (a: SessionStart) => JSON.stringify([a.configFile, a.overrides]) === JSON.stringify([p.configFile, p.overrides]);
		for (const r of [...this.all.values()]) {
			if (r.own?.key !== key || r.own.users.size > 0) continue;
			try {
				if (same(r.own.start)) return await this.daemon.restart(r.info.id, p.client);
			} catch (e) {
				this.log.debug(`session ${r.info.id} is not used again: ${e instanceof Error ? e.message : String(e)}`);
			}
			await this.stop(r.info.id);
		}
		return undefined;
	}

	/** Something went wrong, which the status tells until it was seen. */
	fail(what: string): void {
		this.trouble = what;
		this.changed.fire();
	}

	/** The user has seen what went wrong. */
	settle(): void {
		if (!this.trouble) return;
		this.trouble = '';
		this.changed.fire();
	}

	/** A debug session, task or terminal begins to use a session. */
	use(id: string, user: string): void {
		const own = this.all.get(id)?.own;
		if (!own) return;
		clearTimeout(own.timer);
		own.timer = undefined;
		own.left = false;
		own.users.add(user);
		this.changed.fire();
	}

	/** The user has ended; the session ends a while after its last one, or at once. */
	leave(id: string, user: string, atOnce: boolean): void {
		const r = this.all.get(id);
		if (!r?.own?.users.delete(user)) return;
		r.own.paused.delete(user);
		if (r.own.users.size === 0) {
			if (atOnce) void this.stop(id);
			else {
				r.own.left = true;
				this.expire(r, restartTime);
			}
		}
		this.changed.fire();
	}

	pause(id: string, user: string, paused: boolean): void {
		const own = this.all.get(id)?.own;
		if (!own || own.paused.has(user) === paused) return;
		if (paused) own.paused.add(user);
		else own.paused.delete(user);
		this.changed.fire();
	}

	/** Has a session steal one more request. */
	arm(id: string): Promise<void> { return this.daemon.arm(id); }

	async stop(id: string): Promise<void> {
		const r = this.all.get(id);
		if (r?.own) {
			clearTimeout(r.own.timer);
			r.own = undefined;
		}
		this.all.delete(id);
		this.changed.fire();
		try {
			await this.daemon.stop(id);
		} catch (e) {
			if (!(e instanceof DaemonError && e.code === code.session)) void this.notify.error('stop', e);
		}
	}

	/** Hears what happens in all sessions, also in those of other windows and terminals. */
	async listen(traffic: boolean): Promise<void> {
		if (this.listening && this.traffic === traffic) return;
		this.listening?.cancel();
		this.traffic = traffic;
		const source = new vscode.CancellationTokenSource();
		this.listening = source;
		this.daemon.events({ traffic }, source.token).catch((e: unknown) => {
			if (!source.token.isCancellationRequested) this.log.debug(`events: ${e instanceof Error ? e.message : String(e)}`);
		}).finally(() => {
			source.dispose();
			if (this.listening === source) this.listening = undefined;
		});
		try { // what has ended while nobody listened
			const there = new Set((await this.daemon.sessions()).map((s) => s.id));
			const gone = [...this.all].filter(([id, r]) => !r.own && !there.has(id));
			for (const [id] of gone) this.all.delete(id);
			if (gone.length > 0) this.changed.fire();
		} catch (e) {
			this.log.debug(`sessions: ${e instanceof Error ? e.message : String(e)}`);
		}
	}

	clearTraffic(): void {
		for (const r of this.all.values()) r.traffic.clear();
		this.changed.fire();
	}

	dispose(): void {
		this.listening?.cancel();
		for (const r of this.all.values()) clearTimeout(r.own?.timer);
		for (const e of [this.changed, this.passed, this.ended]) e.dispose();
	}

	private expire(r: Running, after: number): void {
		clearTimeout(r.own?.timer);
		if (r.own) r.own.timer = setTimeout(() => void this.stop(r.info.id), after);
	}

	private event(e: SessionEvent): void {
		this.events.take(e);
		let r = this.all.get(e.session);
		if (e.kind === 'ended') {
			this.events.forget(e.session);
			this.ended.fire(e.session);
			if (!r) return;
			this.all.delete(e.session);
			clearTimeout(r.own?.timer);
			this.changed.fire();
			if (r.own && r.own.users.size > 0) {
				const what = `the session with ${r.info.target} has ended: ${e.message ?? 'nobody says why'}`;
				this.fail(what);
				void this.notify.warn('ended', what);
			}
			return;
		}
		if (!r) {
			r = { info: { id: e.session, target: e.message ?? '', started: e.time, launchers: 0 }, traffic: new Traffic() };
			this.all.set(e.session, r);
		}
		if (e.kind === 'moved' && e.message) {
			r.info = { ...r.info, target: e.message, pod: /^pod\/([^/ ]+)/.exec(e.message)?.[1] };
			this.changed.fire();
		}
		if (e.kind === 'message' && r.own && e.message) {
			if (e.lost) this.fail(e.message);
			void this.notify.warn('target', e.message);
		}
		if (!r.traffic.take(e)) return;
		(isTraffic(e) ? this.passed : this.changed).fire();
	}

	/** The connection has ended. If the daemon has, launchers start another, and this window holds its sessions there. */
	private async lost(why: string): Promise<void> {
		this.log.warn(`the connection to the daemon is lost: ${why}`);
		const before = this.daemon.pid;
		this.listening?.cancel();
		this.listening = undefined;
		const used = [...this.all.values()].filter((r) => r.own && r.own.users.size > 0);
		for (const [id, r] of this.all) {
			if (used.includes(r)) continue;
			clearTimeout(r.own?.timer);
			this.all.delete(id);
		}
		this.changed.fire();
		if (used.length === 0) return;
		const failed: string[] = [];
		try {
			await this.daemon.sessions(); // of the daemon that there is now
			if (this.daemon.pid === before) throw new Error('it ended the sessions of this window, and what ran in them');
		} catch (e) {
			failed.push(e instanceof Error ? e.message : String(e));
		}
		for (const r of used) {
			if (failed.length > 0) {
				this.all.delete(r.info.id);
				continue;
			}
			try {
				r.info = await this.daemon.start({ ...r.own!.start, ...sameTarget(r) }, () => {}, never);
			} catch (e) {
				failed.push(`${r.info.target}: ${e instanceof Error ? e.message : String(e)}`);
				this.all.delete(r.info.id);
			}
		}
		void this.listen(this.traffic ?? false);
		if (failed.length > 0) {
			const what = `the connection to the daemon was lost, and sessions with it: ${failed.join('; ')}`;
			this.fail(what);
			void this.notify.error('lost', new Error(what));
		} else {
			void this.notify.info('daemon', 'the daemon ended and was started again; open remote connections of the program were reset');
		}
		this.changed.fire();
	}
}

/** What starts a session again with the pod that it had, in its cluster. */
function sameTarget(r: Running): Partial<SessionStart> {
	const { pod, namespace, context, started } = r.info;
	if (!namespace) return { started };
	return { started, pod, overrides: { ...r.own!.start.overrides, namespace, context } };
}
