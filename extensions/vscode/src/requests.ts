import * as vscode from 'vscode';
import type { Daemon } from './daemon';
import type { Exchange, Half } from './protocol';
import { duration } from './traffic';

export const requestScheme = 'mirrord-request';

/** Shows one request and its answer as a read-only document. */
export class RequestDocuments implements vscode.TextDocumentContentProvider {
	constructor(private readonly daemon: Daemon) {}

	async show(session: string, id: string, title: string, reveal: boolean): Promise<void> {
		const uri = vscode.Uri.from({ scheme: requestScheme, authority: session, path: `/${id}/${title.replaceAll('/', '∕')}.http`, query: reveal ? 'reveal' : '' });
		const document = await vscode.workspace.openTextDocument(uri);
		await vscode.window.showTextDocument(document, { preview: true });
	}

	async provideTextDocumentContent(uri: vscode.Uri): Promise<string> {
		const id = uri.path.split('/')[1] ?? '';
		return render(await this.daemon.exchange(uri.authority, id, uri.query === 'reveal'));
	}
}

export function render(x: Exchange): string {
	const about = [
		x.peer ? `from ${x.peer}` : '', x.port ? `to port ${x.port}` : '', x.started ? `at ${x.started}` : '', x.ms === undefined ? '' : `took ${duration(x.ms)}`,
	].filter(Boolean).join(', ');
	const out = [`# ${about}`, '', `${x.request.method} ${x.request.path} ${x.request.proto ?? ''}`.trimEnd(), ...half(x.request), ''];
	if (!x.response) out.push('# no answer yet');
	else out.push('###', '', `${x.request.proto ?? 'HTTP'} ${x.response.status}`, ...half(x.response));
	return out.join('\n') + '\n';
}

function half(h: Half): string[] {
	const out = (h.headers ?? []).map(([name, value]) => `${name}: ${value}`);
	const body = Buffer.from(h.body ?? '', 'base64');
	if (body.length > 0) out.push('', text(body, h.headers ?? []));
	if (h.truncated) out.push('', '# the rest of the body was not kept');
	return out;
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
