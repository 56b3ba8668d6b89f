import * as vscode from 'vscode';
import { DaemonError, type Cancel, type Daemon } from './daemon';
import type { EventLog } from './eventlog';
import type { Notifier } from './notify';
import { code, type Session, type SessionEvent, type SessionStart } from './protocol';
import { Traffic } from './traffic';

/** How long a session outlives its last debug session: an editor that restarts one begins it anew. */
const restartTime = 60_000; // ms
/** How long a session waits for its first debug session, which a build may precede. */
const launchTime = 10 * 60_000; // ms

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
	private readonly ended = new vscode.EventEmitter<string>();
	/** Tells the id of a session that has ended. */
	readonly onEnd = this.ended.event;
	starting = 0;
	trouble = ''; // what went wrong last, until the next start
	private listening?: vscode.CancellationTokenSource;
	private traffic = false;

	constructor(
		private readonly daemon: Daemon, private readonly notify: Notifier, private readonly events: EventLog, private readonly log: vscode.LogOutputChannel,
	) {
		daemon.onEvent = (e) => this.event(e);
		daemon.onLost = (why) => void this.lost(why);
	}

	/** Those that something runs in, or is about to. */
	get list(): Running[] { return [...this.all.values()].filter((r) => (r.own ? !r.own.left : r.traffic.launchers > 0)); }
	get own(): Running[] { return this.list.filter((r) => r.own); }
	get(id: string): Running | undefined { return this.all.get(id); }

	/** The session of a launch that runs, or is just being restarted. */
	of(key: string): Running | undefined { return [...this.all.values()].find((r) => r.own?.key === key && r.own.users.size > 0); }

	/** Starts a session, which this window holds until nothing runs in it. */
	async start(key: string, p: SessionStart, report: (m: string) => void, cancel: Cancel): Promise<Running> {
		this.starting++;
		this.trouble = '';
		this.changed.fire();
		try {
			const begun = Date.now();
			const info = await this.predecessor(key, p) ?? await this.daemon.start(p, report, cancel);
			this.log.info(`session ${info.id} with ${info.target}, after ${Date.now() - begun} ms`);
			const r: Running = this.all.get(info.id) ?? { info, traffic: new Traffic() };
			r.info = info;
			r.own = { key, start: { ...p, id: info.id }, users: new Set(), paused: new Set() };
			this.all.set(info.id, r);
			this.expire(r, launchTime);
			this.listen(this.traffic);
			for (const w of info.warnings ?? []) void this.notify.warn('warning', w);
			return r;
		} catch (e) {
			if (!(e instanceof DaemonError && e.cancelled)) this.trouble = e instanceof Error ? e.message : String(e);
			throw e;
		} finally {
			this.starting--;
			this.changed.fire();
		}
	}

	/** The session that the launch had the last time, if it is still there and fits; else it ends, since it may hold a port. */
	private async predecessor(key: string, p: SessionStart): Promise<Session | undefined> {
		const same = (a: SessionStart) => JSON.stringify([a.configFile, a.overrides]) === JSON.stringify([p.configFile, p.overrides]);
		for (const r of this.all.values()) {
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
		if (!own) return;
		if (paused) own.paused.add(user);
		else own.paused.delete(user);
		this.changed.fire();
	}

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

	/** Hears what happens in the sessions, also in those of other windows and terminals. */
	listen(traffic: boolean): void {
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
	}

	clearTraffic(): void {
		for (const r of this.all.values()) r.traffic.clear();
		this.changed.fire();
	}

	dispose(): void {
		this.listening?.cancel();
		for (const r of this.all.values()) clearTimeout(r.own?.timer);
		this.changed.dispose();
		this.ended.dispose();
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
			if (r.own && r.own.users.size > 0) {
				this.trouble = `the session with ${r.info.target} has ended: ${e.message ?? 'nobody says why'}`;
				void this.notify.warn('ended', this.trouble);
			}
			return this.changed.fire();
		}
		if (!r) {
			r = { info: { id: e.session, target: e.message ?? '', started: e.time, launchers: 0 }, traffic: new Traffic() };
			this.all.set(e.session, r);
		}
		if (e.kind === 'message' && r.own && e.message) {
			this.trouble = e.message;
			void this.notify.warn('target', e.message);
		}
		if (r.traffic.take(e)) this.changed.fire();
	}

	/** The daemon has ended: launchers start another, and this window holds its sessions there. */
	private async lost(why: string): Promise<void> {
		this.listening?.cancel();
		this.listening = undefined;
		const mine = [...this.all.values()].filter((r) => r.own);
		for (const [id, r] of this.all) if (!r.own) this.all.delete(id);
		this.changed.fire();
		this.log.warn(`the daemon is gone: ${why}`);
		if (mine.length === 0) return;
		const never = { isCancellationRequested: false, onCancellationRequested: () => ({ dispose() {} }) };
		let failed: unknown;
		for (const r of mine) {
			try {
				if (r.own && r.own.users.size > 0) r.info = await this.daemon.start(r.own.start, () => {}, never);
				else this.all.delete(r.info.id);
			} catch (e) {
				failed = e;
				this.all.delete(r.info.id);
			}
		}
		this.listen(this.traffic);
		if (failed) {
			this.trouble = failed instanceof Error ? failed.message : String(failed);
			void this.notify.error('lost', new Error(`the daemon ended, and its session could not be taken up again: ${this.trouble}`));
		} else {
			void this.notify.info('daemon', 'the daemon ended and was started again; open remote connections of the program were reset');
		}
		this.changed.fire();
	}
}
