// Answers the tests over a unix socket in the runtime directory, named as the
// window's folder: a line of JSON each way.
'use strict';

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const readline = require('node:readline');
const vscode = require('vscode');

/** @typedef {{ settings: Record<string, unknown> } | { command: string, args: unknown[] } | { state: true }} Request */

/** @param {Request} r */
async function answer(r) {
	if ('settings' in r) {
		for (const [name, value] of Object.entries(r.settings)) {
			await vscode.workspace.getConfiguration().update(name, value ?? undefined, vscode.ConfigurationTarget.Global);
		}
		return null;
	}
	if ('command' in r) {
		return vscode.commands.executeCommand(r.command, ...r.args);
	}
	return {
		session: vscode.debug.activeDebugSession?.configuration,
		active: vscode.extensions.all.filter(e => e.isActive && !e.id.startsWith('vscode.')).map(e => e.id),
		pid: process.pid,
		memory: process.memoryUsage(),
	};
}

/** @param {vscode.ExtensionContext} context */
function activate(context) {
	const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
	if (!folder || !process.env.XDG_RUNTIME_DIR) {
		return;
	}
	const socket = path.join(process.env.XDG_RUNTIME_DIR, path.basename(folder) + '.sock');
	fs.rmSync(socket, { force: true }); // of the window before its reload
	const server = net.createServer(connection => {
		connection.on('error', () => connection.destroy());
		readline.createInterface(connection).on('line', async line => {
			try {
				connection.end(JSON.stringify({ result: await answer(JSON.parse(line)) ?? null }) + '\n');
			} catch (err) {
				connection.end(JSON.stringify({ error: String(err) }) + '\n');
			}
		});
	}).listen(socket);
	context.subscriptions.push({ dispose: () => server.close() });
}

module.exports = { activate };
