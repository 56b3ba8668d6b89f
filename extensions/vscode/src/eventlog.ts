import * as vscode from 'vscode';
import type { SessionEvent } from './protocol';
import { requestLine } from './traffic';

const kept = 1000; // events of a session

/** What has happened in each session, as text, for who wants to see it. */
export class EventLog {
	private readonly past = new Map<string, SessionEvent[]>(); // made to text when it is shown
	private readonly channels = new Map<string, vscode.OutputChannel>();

	take(e: SessionEvent): void {
		const list = this.past.get(e.session) ?? [];
		if (list.push(e) > kept) list.shift();
		this.past.set(e.session, list);
		this.channels.get(e.session)?.appendLine(eventLine(e));
	}

	show(session: string, target: string): void {
		let channel = this.channels.get(session);
		if (!channel) {
			channel = vscode.window.createOutputChannel(`mirrord: ${target}`);
			this.channels.set(session, channel);
			for (const e of this.past.get(session) ?? []) channel.appendLine(eventLine(e));
		}
		channel.show();
	}

	/** Forgets a session that has ended, unless its log is shown. */
	forget(session: string): void { if (!this.channels.has(session)) this.past.delete(session); }

	dispose(): void { this.channels.forEach((c) => c.dispose()); }
}

/** A query may hold what is to be in no file. */
export function withoutQuery(path = ''): string { return path.replace(/\?.*/s, '?…'); }

export function eventLine(e: SessionEvent): string {
	const words: unknown[] = [e.time, e.kind];
	if (e.pid) words.push(`process ${e.pid}`);
	if (e.port) words.push(`port ${e.port}${e.mirror ? ' (mirrored)' : ''}`);
	if (e.request) words.push(e.kind === 'request' ? `${e.request.method} ${withoutQuery(e.request.path)}` : requestLine(e.request).description);
	if (e.connection) words.push(`${e.connection.peer ?? ''} to port ${e.connection.port}`);
	if (e.outgoing) words.push(`${e.outgoing.proto} ${e.outgoing.name ?? ''} ${e.outgoing.address} ${e.outgoing.error ?? ''}`);
	if (e.file) words.push(`${e.file.op} ${e.file.path} ${e.file.error ?? ''}`);
	if (e.serving) words.push(`thread ${e.serving.thread}, request ${e.serving.id}: ${e.serving.method} ${withoutQuery(e.serving.path)} from ${e.serving.pod ?? e.serving.peer}`);
	if (e.message) words.push(e.message);
	return words.join(' ').trimEnd();
}
