import * as zlib from 'node:zlib';
import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import { withoutQuery } from './eventlog';
import type { Exchange, Half } from './protocol';
import { duration } from './traffic';

export const requestScheme = 'mirrord-request';

/** Shows one request and its answer as a read-only document. */
export class RequestDocuments implements vscode.TextDocumentContentProvider {
	private readonly changed = new vscode.EventEmitter<vscode.Uri>();
	readonly onDidChange = this.changed.event;

	constructor(private readonly daemon: Daemon) {}

	async show(session: string, id: number, title: string, reveal: boolean): Promise<void> {
		const uri = vscode.Uri.from({ scheme: requestScheme, authority: session, path: `/${id}/${withoutQuery(title).replaceAll('/', '∕')}.http`, query: reveal ? 'reveal' : '' });
		this.changed.fire(uri); // one that is shown already may have been answered meanwhile
		const document = await vscode.workspace.openTextDocument(uri);
		await vscode.window.showTextDocument(document, { preview: true });
	}

	async provideTextDocumentContent(uri: vscode.Uri): Promise<string> {
		const id = Number(uri.path.split('/')[1]);
		return render(await this.daemon.exchange(uri.authority, id, uri.query === 'reveal'));
	}
}

export function render(x: Exchange): string {
	const out = [
		`# from ${x.peer} to port ${x.port}, at ${new Date(x.started).toISOString()}, ${x.done ? 'took' : 'for'} ${duration(x.ms)}`, '',
		`${x.request.method} ${x.request.path} ${x.request.proto}`, ...half(x.request), '', '###', '',
	];
	if (x.response.status === 0) out.push(x.done ? `# no answer: ${x.error ?? 'the connection has ended'}` : '# no answer yet');
	else out.push(`${x.request.proto} ${x.response.status}`, ...half(x.response));
	return out.join('\n') + '\n';
}

function half(h: Half): string[] {
	const headers = h.headers ?? [];
	const out = headers.map(line);
	const body = decode(Buffer.from(h.body, 'base64'), headers);
	if (body.length > 0) out.push('', text(body, headers));
	if (h.truncated) out.push('', '# the rest was not kept');
	if (h.trailers) out.push('', '# trailers', ...h.trailers.map(line));
	return out;
}

function line([name, value]: [string, string]): string { return `${name}: ${value}`; }

/** What a body is without its compression, as far as it was kept. */
function decode(body: Buffer, headers: [string, string][]): Buffer {
	const coding = headers.find(([n]) => n.toLowerCase() === 'content-encoding')?.[1];
	const options = { finishFlush: zlib.constants.Z_SYNC_FLUSH }; // it may have been cut off
	try {
		if (coding === 'gzip') return zlib.gunzipSync(body, options);
		if (coding === 'deflate') return zlib.inflateSync(body, options);
		if (coding === 'br') return zlib.brotliDecompressSync(body);
	} catch { /* it is shown as it came */ }
	return body;
}

/** A body as text; a long or binary one in part, in hexadecimal. */
function text(body: Buffer, headers: [string, string][]): string {
	const s = body.toString('utf8');
	if (/[\u0000-\u0008\u000e-\u001f\ufffd]/.test(s.slice(0, 4096))) {
		const rows: string[] = [];
		for (let i = 0; i < Math.min(body.length, 1024); i += 16) rows.push(body.subarray(i, i + 16).toString('hex').replace(/../g, '$& ').trimEnd());
		return `# ${body.length} bytes, not text\n${rows.join('\n')}`;
	}
	const json = headers.some(([n, v]) => n.toLowerCase() === 'content-type' && /[/+]json/.test(v));
	if (json) try { return JSON.stringify(JSON.parse(s), undefined, 2); } catch { /* as it came */ }
	return s;
}
