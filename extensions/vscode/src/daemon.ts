import { spawn, type ChildProcess } from 'node:child_process';
import {
	CancellationTokenSource, createMessageConnection, ErrorCodes, ResponseError, StreamMessageReader, StreamMessageWriter,
	type MessageConnection,
} from 'vscode-jsonrpc/node';
import * as ide from './protocol';

/** What the daemon, or the way to it, answered in place of a result. */
export class DaemonError extends Error {
	constructor(readonly code: number, message: string, readonly hint = '', readonly errno = '') {
		super(message);
	}
	get cancelled(): boolean { return this.code === ide.code.cancelled; }
}

/** Something that can be cancelled: vscode.CancellationToken is one. */
export interface Cancel {
	readonly isCancellationRequested: boolean;
	onCancellationRequested(listener: () => void): { dispose(): void };
}

export interface Options {
	binary(): string;
	build(): string; // of the mirrord in this extension; '': whichever binary() is
	name: string; // who calls, for the daemon's log
	log(line: string): void;
}

type Report = (value: ide.Progress['value']) => void;

/**
 * The connection to the daemon, by `mirrord daemon --stdio`, which starts the
 * daemon where none runs. It is made by the first request, and made again by
 * the first one after it was lost.
 */
export class Daemon {
	/** Hears each event of `events`. */
	onEvent: (e: ide.SessionEvent) => void = () => {};
	/** Is told that the connection was lost, not that dispose has ended it. */
	onLost: (why: string) => void = () => {};

	private connecting?: Promise<Connected>;
	private bridge?: ChildProcess;
	private disposed = false;
	private tokens = 0;
	private readonly reports = new Map<string, Report>();

	constructor(private readonly options: Options) {}

	/** The process of the daemon that was connected to last; 0: none was. */
	pid = 0;

	get connected(): boolean { return this.connecting !== undefined; }

	targets(p: ide.Choice, part: (t: ide.Target[]) => void, cancel: Cancel): Promise<ide.TargetList> {
		return this.reporting((v) => { if (v.targets) part(v.targets); }, (progress) => this.ask('target/list', { ...p, progress }, cancel));
	}
	contexts(p: ide.Choice, cancel?: Cancel): Promise<ide.Contexts> { return this.ask('target/contexts', p, cancel); }
	namespaces(p: ide.Choice, cancel?: Cancel): Promise<ide.Namespaces> { return this.ask('target/namespaces', p, cancel); }
	verify(p: ide.Choice & { text?: string }, cancel?: Cancel): Promise<ide.Verified> { return this.ask('config/verify', p, cancel); }
	defaultConfig(): Promise<{ name: string; text: string }> { return this.ask('config/default', {}); }
	start(p: ide.SessionStart, report: (message: string) => void, cancel?: Cancel): Promise<ide.Session> {
		return this.reporting((v) => { if (v.message) report(v.message); }, (progress) => this.ask('session/start', { ...p, progress }, cancel));
	}
	restart(id: string, client: ide.Client): Promise<ide.Session> { return this.ask('session/restart', { id, client }); }
	arm(id: string): Promise<void> { return this.ask('session/arm', { id }); }
	stop(id: string): Promise<void> { return this.ask('session/stop', { id }); }
	async sessions(): Promise<ide.Session[]> { return (await this.ask<{ sessions: ide.Session[] }>('session/list', {})).sessions; }
	/** Ends when cancel does; the connection's loss rejects it. */
	events(p: { id?: string; traffic?: boolean }, cancel: Cancel): Promise<void> { return this.ask('session/events', p, cancel); }
	exchange(id: string, request: number, reveal: boolean): Promise<ide.Exchange> { return this.ask('session/request', { id, request, reveal }); }
	debug(id: string, client: ide.Client, cancel?: Cancel): Promise<ide.Debug> { return this.ask('debug/start', { id, client, transport: 'unix' }, cancel); }
	async files(id: string, path: string): Promise<ide.FileEntry[]> { return (await this.ask<{ entries: ide.FileEntry[] }>('file/list', { id, path })).entries; }
	file(id: string, path: string): Promise<ide.FileEntry> { return this.ask('file/stat', { id, path }); }
	read(id: string, path: string, offset: number, length: number): Promise<ide.FileData> { return this.ask('file/read', { id, path, offset, length }); }

	/** Ends the connection; sessions that nobody else holds end with it. */
	dispose(): void {
		this.disposed = true;
		this.bridge?.stdin?.end();
	}

	private async reporting<T>(report: Report, ask: (token: string) => Promise<T>): Promise<T> {
		const token = `t${++this.tokens}`;
		this.reports.set(token, report);
		try { return await ask(token); } finally { this.reports.delete(token); }
	}

	private async ask<T>(method: string, params: object, cancel?: Cancel): Promise<T> {
		if (cancel?.isCancellationRequested) throw new DaemonError(ide.code.cancelled, 'cancelled');
		const { connection, ended } = await (this.connecting ??= this.connect());
		const source = new CancellationTokenSource();
		const listening = cancel?.onCancellationRequested(() => source.cancel());
		try {
			if (cancel?.isCancellationRequested) source.cancel();
			// What has ended the connection says more than that it was.
			return await Promise.race([connection.sendRequest<T>(method, params, source.token).catch((e: unknown) => (e instanceof ResponseError && !isOver(e) ? Promise.reject(e) : ended)), ended]);
		} catch (e) {
			throw asDaemonError(method, e);
		} finally {
			listening?.dispose();
			source.dispose();
		}
	}

	private async connect(): Promise<Connected> {
		if (this.disposed) throw new DaemonError(0, 'the extension has ended');
		const binary = this.options.binary();
		const bridge = spawn(binary, ['daemon', '--stdio'], { stdio: 'pipe', cwd: '/' });
		this.bridge = bridge;
		let stderr = '';
		bridge.stderr.on('data', (d: Buffer) => {
			stderr = (stderr + d.toString()).slice(-4096);
			this.options.log(d.toString().trimEnd());
		});
		const connection = createMessageConnection(new StreamMessageReader(bridge.stdout), new StreamMessageWriter(bridge.stdin));
		let up = false;
		const ended = new Promise<never>((_, reject) => {
			const end = (why: string) => {
				if (this.bridge === bridge) {
					this.bridge = undefined;
					this.connecting = undefined;
				}
				connection.dispose();
				reject(new DaemonError(0, why));
				if (up && !this.disposed) this.onLost(why);
				up = false;
			};
			bridge.on('error', (e) => end(`starting ${binary}: ${e.message}`));
			bridge.on('exit', () => end(stderr.trim().replace(/^mirrord: /, '') || 'the connection to the daemon has ended'));
			bridge.stdin.on('error', () => {}); // its end is told by exit
		});
		ended.catch(() => {}); // also told by onLost
		connection.onNotification('$/progress', (p: ide.Progress) => this.reports.get(p.token)?.(p.value));
		connection.onNotification('session/event', (e: ide.SessionEvent) => this.onEvent(e));
		connection.onError(([e]) => this.options.log(`connection to the daemon: ${e.message}`));
		connection.listen();
		const { name } = this.options;
		const build = this.options.build();
		const hello = await Promise.race([
			connection.sendRequest<ide.Initialized>('initialize', { version: ide.version, build, client: name }).catch((e: unknown) => {
				// The process says more on its way out than that its pipe has closed.
				return e instanceof ResponseError && !isOver(e) ? Promise.reject(asDaemonError('initialize', e)) : ended;
			}),
			ended,
		]);
		const wrong = mismatch(hello, build);
		if (wrong) {
			bridge.stdin.end();
			throw new DaemonError(ide.code.build, wrong, 'end its sessions, or `mirrord daemon stop --force`, and try again');
		}
		up = true;
		this.options.log(`daemon ${hello.build}, pid ${hello.pid}`);
		this.pid = hello.pid;
		return { connection, ended };
	}
}

interface Connected {
	connection: MessageConnection;
	ended: Promise<never>; // rejected when the connection has, with the reason
}

function mismatch(hello: ide.Initialized, build: string): string {
	if (hello.version !== ide.version) return `the daemon speaks version ${hello.version}, this extension ${ide.version}`;
	if (build && hello.build !== build) return `the daemon is build ${hello.build}, this extension's mirrord ${build}`;
	return '';
}

/** Whether an error is the connection's end in vscode-jsonrpc's words. */
function isOver(e: ResponseError<unknown>): boolean { return e.code === ErrorCodes.PendingResponseRejected; }

function asDaemonError(method: string, e: unknown): DaemonError {
	if (e instanceof DaemonError) return e;
	if (e instanceof ResponseError) {
		const data = e.data as { hint?: string; errno?: string } | undefined;
		return new DaemonError(e.code, e.message, data?.hint, data?.errno);
	}
	return new DaemonError(0, `asking the daemon for ${method}: ${e instanceof Error ? e.message : String(e)}`);
}
